# xsimd, headers only: the target Xsimd::Xsimd. Debian's own configuration file asks for xtl, which
# is not needed and not installed with it.
find_path(Xsimd_INCLUDE_DIR xsimd/xsimd.hpp)
mark_as_advanced(Xsimd_INCLUDE_DIR)
if(Xsimd_INCLUDE_DIR)
  file(STRINGS "${Xsimd_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp" lines
       REGEX "#define XSIMD_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
  string(REGEX MATCHALL "[0-9]+" Xsimd_VERSION "${lines}")
  list(JOIN Xsimd_VERSION "." Xsimd_VERSION)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Xsimd REQUIRED_VARS Xsimd_INCLUDE_DIR VERSION_VAR Xsimd_VERSION)
if(Xsimd_FOUND AND NOT TARGET Xsimd::Xsimd)
  add_library(Xsimd::Xsimd INTERFACE IMPORTED)
  target_include_directories(Xsimd::Xsimd SYSTEM INTERFACE "${Xsimd_INCLUDE_DIR}")
endif()
