#include <string>
#include <string_view>

#include <support/paths.hpp>

namespace ds4::test {

std::string data(std::string_view below) { return DS4_TEST_DATA + std::string(below); }
std::string models(std::string_view below) { return DS4_MODELS + std::string(below); }
std::string program_file() { return DS4_PROGRAM; }
std::string plot_file() { return DS4_PLOT; }

}  // namespace ds4::test
