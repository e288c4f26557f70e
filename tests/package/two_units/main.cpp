// Run as: main DIR
#include <cstdint>
#include <exception>
#include <iostream>
#include <vector>

#include "loader.hpp"

/// Whether the error that one unit throws is the type that the other catches.
bool catches_error() {
  try {
    load("/no/such/folder");
  } catch (const ds4::Error&) {
    return true;
  }
  return false;
}

int main(int argc, char** argv) try {
  if (argc != 2 || !catches_error()) return 2;
  Model model = load(argv[1]);
  auto state = model.new_state();
  const std::vector<std::int32_t> ids{0, 1, 2};
  const std::int32_t next = model.greedy(state, ids);
  std::cout << "ds4 " << ds4::kLibraryVersion << ", next token " << next << "\n";
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
