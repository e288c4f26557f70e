// The ds4 program as scripts use it. See program_file().
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <support/paths.hpp>

namespace ds4::test::program {

inline std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A folder that goes away with its content.
class TempDir {
 public:
  TempDir() {
    static std::atomic<int> count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("ds4_program_test_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }

  std::string operator/(std::string_view name) const { return path_ / name; }
  std::string write(std::string_view name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }
  bool is_empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::filesystem::path path_;
};

struct Result {
  int code;
  std::string out;
  std::string err;
};

/// Runs a shell command line in which $ds4 is the program.
inline Result shell(const std::string& command, std::string_view input = "") {
  const TempDir dir;
  const std::string script = dir.write("script", "ds4='" + program_file() + "'\n" + command + "\n");
  const int status = std::system(("sh '" + script + "' <'" + dir.write("in", input) + "' >'" +
                                  dir / "out" + "' 2>'" + dir / "err" + "'")
                                     .c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(dir / "out"), read(dir / "err")};
}

/// The command line that gives the program these arguments, as they are.
inline std::string command_line(const std::vector<std::string>& arguments) {
  std::string command = "\"$ds4\"";
  for (std::string argument : arguments) {
    for (std::size_t at = 0; (at = argument.find('\'', at)) != std::string::npos; at += 4) {
      argument.replace(at, 1, "'\\''");
    }
    command += " '" + argument + "'";
  }
  return command;
}

/// Runs the program with these arguments.
inline Result ds4_program(const std::vector<std::string>& arguments, std::string_view input = "") {
  return shell(command_line(arguments), input);
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

inline void check_fails(const Result& result, int code, std::string_view part) {
  INFO(result.err);
  CHECK(result.code == code);
  CHECK(result.out.empty());
  CHECK(result.err.starts_with("ds4: "));
  CHECK(contains(result.err, part));
  CHECK(std::ranges::count(result.err, '\n') == 1);
  if (code == 2) CHECK(contains(result.err, "--help"));
}

}  // namespace ds4::test::program
