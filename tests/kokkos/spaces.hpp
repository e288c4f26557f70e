// The execution spaces that the tests run on: those of the host that Kokkos was built with.
#pragma once

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos.hpp>

namespace ds4::test {

#ifdef KOKKOS_ENABLE_SERIAL
using SerialBackend = KokkosBackend<Kokkos::Serial>;
#define DS4_SERIAL_BACKEND ds4::test::SerialBackend
#define DS4_ON_SERIAL(...) __VA_ARGS__
#else
#define DS4_ON_SERIAL(...)
#endif
#ifdef KOKKOS_ENABLE_OPENMP
using OpenMPBackend = KokkosBackend<Kokkos::OpenMP>;
#define DS4_OPENMP_BACKEND ds4::test::OpenMPBackend
#define DS4_ON_OPENMP(...) __VA_ARGS__
#else
#define DS4_ON_OPENMP(...)
#endif
#if defined(KOKKOS_ENABLE_SERIAL) && defined(KOKKOS_ENABLE_OPENMP)
#define DS4_HOST_BACKENDS DS4_SERIAL_BACKEND, DS4_OPENMP_BACKEND
#elif defined(KOKKOS_ENABLE_SERIAL)
#define DS4_HOST_BACKENDS DS4_SERIAL_BACKEND
#else
#define DS4_HOST_BACKENDS DS4_OPENMP_BACKEND
#endif

}  // namespace ds4::test
