// model_header NAME HEADER CONFIG...: writes the header of a configuration type; see
// ds4AddModel.cmake. A header that has this text already is left as it is, and nothing is compiled
// again.
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <utility>

#include <ds4/config/config_header.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::cerr << "usage: model_header NAME HEADER CONFIG...\n";
    return 2;
  }
  const std::filesystem::path header(argv[2]);
  ds4::ConfigValues values = ds4::read_config(argv[3]);
  std::string sources;
  for (int i = 3; i < argc; ++i) {
    const std::filesystem::path config(argv[i]);
    values = ds4::with_drafters_of(std::move(values), ds4::read_config(config), config.string());
    sources +=
        (i == 3 ? "" : " and ") + (config.parent_path().filename() / config.filename()).string();
  }
  const std::string text = ds4::config_header(values, argv[1], sources);

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
