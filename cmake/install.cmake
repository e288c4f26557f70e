# Installation, in two components: "development" has the headers and what CMake and pkg-config read,
# the same for all machines; "program" has ds4 and its default model, if they are built.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/ds4)
write_basic_package_version_file(ds4ConfigVersion.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
# A backend has an export set of its own, which names what it needs; reference needs nothing.
install(TARGETS ds4 EXPORT ds4Targets FILE_SET HEADERS COMPONENT development)
foreach(backend IN LISTS ds4_backends)
  set(set ds4_${backend}Targets)
  if(backend STREQUAL "reference")
    set(set ds4Targets)
  endif()
  set(headers "")
  if(backend IN_LIST ds4_optional_backends)
    set(headers FILE_SET HEADERS COMPONENT development)
  endif()
  install(TARGETS ds4_${backend} EXPORT ${set} ${headers})
  install(EXPORT ${set} NAMESPACE ds4:: DESTINATION ${package_dir} COMPONENT development)
  set_target_properties(ds4_${backend} PROPERTIES EXPORT_NAME ${backend})
endforeach()
install(FILES ${PROJECT_BINARY_DIR}/ds4ConfigVersion.cmake cmake/ds4Config.cmake
              cmake/ds4AddDefinitions.cmake cmake/definitions.cpp cmake/ds4AddModel.cmake cmake/ds4AddRuntime.cmake
              cmake/model_header.cpp cmake/ds4AddSimdKernels.cmake cmake/ds4Backends.cmake
              cmake/ds4Needs.cmake
              cmake/FindPCRE2.cmake cmake/FindXsimd.cmake
        DESTINATION ${package_dir} COMPONENT development)
install(DIRECTORY cmake/runtime cmake/simd DESTINATION ${package_dir} COMPONENT development)

set(pc_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)
cmake_path(ABSOLUTE_PATH pc_dir BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}" OUTPUT_VARIABLE from)
file(RELATIVE_PATH ds4_pc_to_include "${from}" "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
file(RELATIVE_PATH ds4_pc_to_package "${from}" "${CMAKE_INSTALL_FULL_DATADIR}/cmake/ds4")
foreach(name IN ITEMS ds4 ds4-simd)
  configure_file(cmake/${name}.pc.in ${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${pc_dir} COMPONENT development)
endforeach()

# Each Debian package has to state the licence.
function(ds4_install_licence component package)
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package} RENAME copyright
          COMPONENT ${component})
endfunction()
ds4_install_licence(development libds4-dev)
set(components development)
if(TARGET ds4_cli)
  install(TARGETS ds4_cli RUNTIME COMPONENT program)
  install(DIRECTORY models/austen DESTINATION ${CMAKE_INSTALL_DATADIR}/ds4/models COMPONENT program)
  ds4_install_licence(program ds4)
  list(APPEND components program)
endif()

# cpack: the Debian packages libds4-dev and, where the program is built, ds4. A project that includes
# this folder makes packages of its own.
if(PROJECT_IS_TOP_LEVEL)
  set(CPACK_GENERATOR DEB)
  set(CPACK_COMPONENTS_ALL ${components})
  set(CPACK_DEB_COMPONENT_INSTALL ON)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_PACKAGE_CONTACT "The developers of ds4")
  set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
      GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "${PROJECT_DESCRIPTION}.")
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libds4-dev)
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_ARCHITECTURE all)
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
      "libeigen3-dev (>= 3.4), nlohmann-json3-dev (>= 3.11), libpcre2-dev")
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_RECOMMENDS "libxsimd-dev (>= 8.1)")
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SUGGESTS "cmake (>= 3.25), pkg-config, libkokkos-dev")
  set(CPACK_COMPONENT_PROGRAM_DESCRIPTION "Runs, converts and measures DeepSeek-V4 models.")
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME ds4)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS "g++, libds4-dev")  # for ds4 add
  include(CPack)
endif()
