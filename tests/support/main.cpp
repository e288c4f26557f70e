// The one main() of the tests.
#define DOCTEST_CONFIG_IMPLEMENT
#include <Eigen/Core>
#include <doctest/doctest.h>

int main(int argc, char** argv) {
  // Threads of Eigen's products spin for each other, which takes minutes where tests share cores.
  Eigen::setNbThreads(1);
  return doctest::Context(argc, argv).run();
}
