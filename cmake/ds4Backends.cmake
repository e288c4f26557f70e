# The backends, once: CMakeLists.txt, the installation, find_package(ds4), ds4_add_model() and the
# program read this list. NAME has the header <ds4/kernels/NAME.hpp> and the target ds4::NAME.
set(ds4_backends reference simd kokkos mpi)

# Those that are built only where the option DS4_NAME is on. Their headers, kernels/NAME.hpp,
# kernels/NAME/*.hpp and runtime/NAME.hpp, do not compile without what they need, and are checked with their target.
set(ds4_optional_backends kokkos mpi)

# Their types.
set(ds4_type_reference "ds4::Reference<float>")
set(ds4_type_simd "ds4::Simd")
set(ds4_type_kokkos "ds4::KokkosBackend<>")
set(ds4_type_mpi "ds4::Distributed<ds4::Simd>")

# What their targets link beside the library.
set(ds4_links_reference "")
set(ds4_links_simd Xsimd::Xsimd)
set(ds4_links_kokkos Kokkos::kokkos)
set(ds4_links_mpi Xsimd::Xsimd MPI::MPI_CXX)

# ds4_find_NAME(), where that has to be found: sets `missing` to words that say what to do.
macro(ds4_find_simd)
  if(NOT TARGET Xsimd::Xsimd)
    find_package(Xsimd 8.1 QUIET)
    if(NOT Xsimd_FOUND)
      set(missing "xsimd 8.1 or later (Debian's libxsimd-dev, or say where it is: -DXsimd_ROOT=<folder>)")
    endif()
  endif()
endmacro()
macro(ds4_find_kokkos)
  if(NOT TARGET Kokkos::kokkos)
    find_package(Kokkos CONFIG QUIET)
    if(NOT Kokkos_FOUND OR Kokkos_VERSION VERSION_LESS 4)
      set(missing "Kokkos 4 or later (say where it is: -DKokkos_ROOT=<folder>)")
    endif()
  endif()
endmacro()
macro(ds4_find_mpi)
  ds4_find_simd()
  if(NOT TARGET MPI::MPI_CXX)
    set(MPI_CXX_SKIP_MPICXX ON)
    find_package(MPI 3 QUIET COMPONENTS CXX)
    if(NOT MPI_CXX_FOUND)
      set(missing "an MPI of version 3 or later (Debian's libopenmpi-dev and openmpi-bin)")
    endif()
  endif()
endmacro()

# "reference, simd, kokkos or mpi", for messages.
list(JOIN ds4_backends ", " ds4_backends_in_words)
string(REGEX REPLACE ", ([^,]+)$" " or \\1" ds4_backends_in_words "${ds4_backends_in_words}")
