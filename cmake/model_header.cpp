// model_header CONFIG NAME HEADER: writes the header of a configuration type; see
// ds4AddModel.cmake. A header that has this text already is left as it is, and nothing is compiled
// again.
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include <ds4/config/config_header.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/core/error.hpp>

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::cerr << "usage: model_header CONFIG NAME HEADER\n";
    return 2;
  }
  const std::filesystem::path config(argv[1]);
  const std::filesystem::path header(argv[3]);
  const std::filesystem::path source = config.parent_path().filename() / config.filename();
  const std::string text = ds4::config_header(ds4::read_config(config), argv[2], source.string());

  std::ifstream present(header, std::ios::binary);
  if (present && text == std::string(std::istreambuf_iterator<char>(present), {})) return 0;
  std::filesystem::create_directories(header.parent_path());
  std::ofstream out(header, std::ios::binary);
  out << text;
  if (!out.flush()) throw ds4::Error(header.string(), "expected to write it, found no way to");
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
