// Where tests find the data, the models and the programs of the build that they belong to. One
// source knows these paths: the others compile to the same objects in every folder.
#pragma once

#include <string>
#include <string_view>

namespace ds4::test {

/// tests/data, and what is below it: `below` is empty or begins with a slash.
std::string data(std::string_view below = "");
/// models, likewise.
std::string models(std::string_view below = "");
/// The ds4 program that tests/cli runs.
std::string program_file();
/// The script bench/plot.
std::string plot_file();

}  // namespace ds4::test
