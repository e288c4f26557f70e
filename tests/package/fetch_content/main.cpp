#include <iostream>

#include <ds4/core/version.hpp>
#include <ds4/models/small_config.hpp>
#include <ds4/plan/plan.hpp>

int main() {
  std::cout << "ds4 " << ds4::kLibraryVersion << ", layers "
            << ds4::models::small::num_hidden_layers << "\n";
}
