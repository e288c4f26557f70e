// The main() of the tests of several ranks: each of them runs all tests; rank 0 tells how they
// went, and another one only what has failed on it.
#define DOCTEST_CONFIG_IMPLEMENT
#include <iostream>
#include <sstream>

#include <doctest/doctest.h>

#include <ds4/kernels/mpi/ranks.hpp>

int main(int argc, char** argv) {
  const ds4::mpi::World world;
  doctest::Context context(argc, argv);
  std::ostringstream text;
  if (ds4::mpi::World::rank() > 0) context.setCout(&text);
  const int result = context.run();
  if (result != 0) {
    std::cerr << text.str() << "on rank " << ds4::mpi::World::rank() << "\n";
    ds4::mpi::World::end_all();
  }
  return result;
}
