// The main() of the Kokkos backend's tests: Kokkos lives as long as they run.
#define DOCTEST_CONFIG_IMPLEMENT
#include <Kokkos_Core.hpp>
#include <doctest/doctest.h>

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard kokkos(argc, argv);
  return doctest::Context(argc, argv).run();
}
