#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/runtime/plugin.hpp>
#include <support/files.hpp>

namespace {

namespace fs = std::filesystem;
using ds4::test::TempDir;

/// Headers that nothing compiles.
fs::path write_headers(const TempDir& dir) {
  fs::create_directories(dir.path() / "include/ds4/core");
  dir.write("include/ds4/model.hpp", "model");
  dir.write("include/ds4/core/error.hpp", "error");
  return dir.path() / "include";
}

ds4::PluginKey flash() {
  ds4::PluginKey key{ds4::config_values<ds4::Flash>(), "simd"};
  key.config.name = "flash";
  return key;
}

/// A command that takes the place of a compiler: it knows --version, and does `body` otherwise,
/// with the output's name in $out.
std::string fake_compiler(const TempDir& dir, const std::string& body) {
  const fs::path file = dir.write("compiler",
                                  "#!/bin/sh\n[ \"$2\" ] || { echo fake 1; exit 0; }\n"
                                  "while [ \"$1\" != -o ]; do shift; done\nout=$2\n" +
                                      body + "\n");
  fs::permissions(file, fs::perms::owner_all);
  return file.native();
}

fs::path own_folder(const TempDir& dir) {
  const fs::path folder = dir.path() / "models";
  fs::create_directory(folder);
  fs::permissions(folder, fs::perms::owner_all);
  return folder;
}

}  // namespace

TEST_CASE("plugin: the fingerprint follows the configuration, what it is for, and the headers") {
  const TempDir dir;
  const fs::path headers = write_headers(dir);
  const ds4::PluginKey key = flash();
  const std::string fingerprint = ds4::plugin_fingerprint(key, headers);
  CHECK(fingerprint.size() == 16);
  ds4::PluginKey other = key;
  other.config.name = "another_name";
  CHECK(ds4::plugin_fingerprint(other, headers) == fingerprint);
  other.config.rope_theta += 1;
  CHECK(ds4::plugin_fingerprint(other, headers) != fingerprint);
  other = key;
  other.backend = "reference";
  CHECK(ds4::plugin_fingerprint(other, headers) != fingerprint);
  other = key;
  other.trainable = true;
  CHECK(ds4::plugin_fingerprint(other, headers) != fingerprint);
  dir.write("include/ds4/core/error.hpp", "errors");
  CHECK(ds4::plugin_fingerprint(key, headers) != fingerprint);
  CHECK_THROWS_AS(ds4::plugin_fingerprint(key, dir.path() / "none"), ds4::Error);
}

TEST_CASE("plugin: one that is added is found, once") {
  const TempDir dir;
  const fs::path folder = own_folder(dir);
  const std::string command = fake_compiler(dir, "echo run >> \"$0.log\"; echo plugin > \"$out\"");
  const ds4::PluginCompiler compiler{write_headers(dir), {}, command};
  const ds4::PluginFile added = ds4::add_plugin(folder, flash(), compiler);
  CHECK(added.name == "flash");
  CHECK(added.kind == "simd");
  CHECK(added.bytes == 7);
  const std::string fingerprint = ds4::plugin_fingerprint(flash(), compiler.headers);
  const auto found = ds4::find_plugin(folder, fingerprint);
  REQUIRE(found.has_value());
  CHECK(found->path == added.path);
  CHECK(!ds4::find_plugin(folder, "0123456789abcdef").has_value());
  CHECK(!ds4::find_plugin(dir.path() / "none", fingerprint).has_value());

  CHECK(ds4::add_plugin(folder, flash(), compiler).path == added.path);
  CHECK(ds4::test::content_of(command + ".log") == "run\n");
  CHECK(ds4::list_plugins(folder).size() == 1);  // and nothing else is left
  CHECK(std::distance(fs::directory_iterator(folder), fs::directory_iterator()) == 1);

  // It is no plugin, which is found out when it is loaded.
  CHECK_THROWS_AS(ds4::load_plugin(added, {}), ds4::Error);
}

TEST_CASE("plugin: a compiler that fails, is missing or is stopped leaves nothing behind") {
  const TempDir dir;
  const fs::path folder = own_folder(dir);
  ds4::PluginCompiler compiler{write_headers(dir), {}, "ds4-no-such-compiler"};
  CHECK(
      ds4::test::error_text([&] { ds4::add_plugin(folder, flash(), compiler); }) ==
      "ds4: ds4-no-such-compiler: expected a C++ compiler, found none of this name: install GCC 12 "
      "or Clang 16 or later (Debian's g++), or name one in the environment variable CXX");
  compiler.command = fake_compiler(dir, "echo 'x.cpp:1: error: no luck'; exit 1");
  CHECK(ds4::test::error_text([&] { ds4::add_plugin(folder, flash(), compiler); }) ==
        doctest::String(
            ("ds4: " + compiler.command + ": cannot compile flash: error: no luck").c_str()));
  compiler.command = fake_compiler(dir, "sleep 60");
  CHECK_THROWS_AS(ds4::add_plugin(folder, flash(), compiler, [](double) { return false; }),
                  ds4::Stopped);
  CHECK(fs::is_empty(folder));
}

TEST_CASE("plugin: files and folders that others can write to are refused") {
  const TempDir dir;
  const fs::path folder = own_folder(dir);
  const ds4::PluginCompiler compiler{
      write_headers(dir), {}, fake_compiler(dir, "echo plugin > \"$out\"")};
  const ds4::PluginFile added = ds4::add_plugin(folder, flash(), compiler);
  const auto refused = [](const doctest::String& text) {
    return std::string(text.c_str()).find("found what others can write to") != std::string::npos;
  };
  ::chmod(added.path.c_str(), 0720);
  CHECK(refused(ds4::test::error_text([&] { ds4::load_plugin(added, {}); })));
  ::chmod(added.path.c_str(), 0700);
  ::chmod(folder.c_str(), 0777);
  CHECK(refused(ds4::test::error_text([&] { ds4::load_plugin(added, {}); })));
  CHECK(refused(ds4::test::error_text([&] { ds4::add_plugin(folder, flash(), compiler); })));
}

TEST_CASE("plugin: names are those of folders, as identifiers") {
  CHECK(ds4::plugin_name("/some/Tiny-Flash.v2/config.json") == "Tiny_Flash_v2");
  CHECK(ds4::plugin_name("/some/4layers/config.json") == "model_4layers");
  CHECK(ds4::plugin_name("/config.json") == "model_");
}
