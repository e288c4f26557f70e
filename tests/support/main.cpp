// The one main() of the tests. With --instruction-sets it only says which of them this machine
// tests.
#define DOCTEST_CONFIG_IMPLEMENT
#include <algorithm>
#include <iostream>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include <ds4/kernels/simd.hpp>
#include <ds4/kernels/simd/dispatch.hpp>

namespace {

void print_instruction_sets() {
  const auto available = ds4::simd::available_kernels();
  std::string run;
  std::string not_run;
  for (const std::string_view name : ds4::simd::compiled_sets()) {
    const bool runs = std::ranges::any_of(
        available, [&](const ds4::simd::Kernels* kernels) { return name == kernels->name; });
    (runs ? run : not_run).append(" ").append(name);
  }
  std::cout << "instruction sets tested:" << run << "\n";
  if (!not_run.empty()) {
    std::cout << "compiled and NOT tested, as this machine has none of it:" << not_run << "\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--instruction-sets") {
    print_instruction_sets();
    return 0;
  }
  return doctest::Context(argc, argv).run();
}
