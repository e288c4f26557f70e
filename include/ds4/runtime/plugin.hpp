// Configurations that are compiled when they are met: plugins, shared objects in the user's cache.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ds4/config/config_header.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/checked_stream.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/version.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/scratch_folder.hpp>

extern char** environ;  // which no header has to declare

namespace ds4::inline v0_1::simd {
struct Kernels;
struct TrainingKernels;
}  // namespace ds4::inline v0_1::simd

namespace ds4::inline v0_1 {

/// What a program hands to a plugin, so that the plugin need not have it compiled in: the SIMD
/// kernels, null where the program has none.
struct PluginHost {
  ///@{
  /// As simd::chosen_kernels() and simd::chosen_training_kernels() give them.
  const simd::Kernels* kernels = nullptr;
  const simd::TrainingKernels* training_kernels = nullptr;
  ///@}
  /// A FaultGuard is to live in the plugin as well: that of the program does not see its files.
  bool guards_faults = false;
};

/// That of this program. ds4_add_compiled_models() writes its definition.
PluginHost plugin_host();

/// What a plugin is compiled for.
struct PluginKey {
  ConfigValues config;     ///< the configuration, whose name is a C++ identifier
  std::string backend;     ///< "simd" or "reference"
  bool trainable = false;  ///< AnyTrainable as well

  /// "simd", "simd-trainable", ...
  std::string kind() const { return backend + (trainable ? "-trainable" : ""); }
};

/// What compiles plugins.
struct PluginCompiler {
  /// The folder that has ds4/model.hpp. What is in its ds4/ is part of a plugin's fingerprint.
  std::filesystem::path headers;
  std::vector<std::string> flags = {};  ///< where Eigen and nlohmann-json are
  /// The command; empty: that of the environment's CXX, or c++.
  std::string command = {};
};

/// The flags for folders of headers, with ':' between them, as ds4_plugin_includes() gives them.
inline std::vector<std::string> include_flags(std::string_view folders) {
  std::vector<std::string> flags;
  for (const auto folder : std::views::split(folders, ':')) {
    flags.push_back("-I" + std::string(folder.begin(), folder.end()));
  }
  return flags;
}

/// A plugin in the cache.
struct PluginFile {
  std::filesystem::path path;  ///< NAME.KIND.FINGERPRINT.COMPILER.so
  std::string name;            ///< of the configuration
  std::string kind;            ///< see PluginKey::kind()
  std::string fingerprint;     ///< see plugin_fingerprint()
  std::size_t bytes = 0;       ///< of the file
};

namespace detail {

inline constexpr std::string_view kPluginEntry = "ds4_plugin";
/// The function of that name: the model, or null if the fingerprint is not the plugin's.
using PluginEntry = const CompiledModel* (*)(const char* fingerprint, const PluginHost* host);

/// Throws unless only this user can have written what is there.
inline void expect_own(const std::filesystem::path& path, bool folder) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) throw_errno(path, "stat", errno);
  const std::string where = printable_path(path);
  if (folder ? !S_ISDIR(status.st_mode) : !S_ISREG(status.st_mode)) {
    throw Error(ErrorKind::file, where,
                std::string("expected a ") + (folder ? "folder" : "regular file") +
                    ", found something else");
  }
  if (status.st_uid != ::geteuid() || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    throw Error(ErrorKind::file, where,
                "found what others can write to, expected this user's own: compiled models are "
                "code, and run only from there");
  }
}

/// Runs a command, its output in a file, until it ends; kills it, and what it has started, if
/// go_on() gives false. The exit code; none if it was killed. Throws ds4::Error if there is no such
/// command.
inline std::optional<int> run_command(const std::vector<std::string>& words,
                                      const std::filesystem::path& output,
                                      const std::function<bool(double)>& go_on) {
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::posix_spawn_file_actions_t files{};
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&files, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::posix_spawn_file_actions_adddup2(&files, 1, 2);
  ::posix_spawnattr_t attributes{};
  ::posix_spawnattr_init(&attributes);
  // A group of its own: what interrupts the program is not meant for it, and all of it can be
  // ended.
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::pid_t child = 0;
  const int failed =
      ::posix_spawnp(&child, arguments[0], &files, &attributes, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  if (failed != 0) {
    throw Error(ErrorKind::file, printable(words[0]),
                "expected a C++ compiler, found none of this name: install GCC 12 or Clang 16 or "
                "later (Debian's g++), or name one in the environment variable CXX");
  }
  const auto start = std::chrono::steady_clock::now();
  bool killed = false;
  for (;;) {
    int status = 0;
    const ::pid_t ended = ::waitpid(child, &status, WNOHANG);
    if (ended == child) {
      if (killed) return std::nullopt;
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    if (ended < 0 && errno != EINTR) throw_errno(words[0], "wait for", errno);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (!killed && go_on && !go_on(seconds.count())) {
      ::kill(-child, SIGKILL);
      killed = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

/// The compiler's command as words, without those of a shell.
inline std::vector<std::string> compiler_words(const PluginCompiler& compiler) {
  std::string command = compiler.command;
  if (const char* const named = std::getenv("CXX"); command.empty() && named != nullptr) {
    command = named;
  }
  std::vector<std::string> words;
  std::string word;
  for (const char c : command + " ") {
    if (c != ' ') {
      word += c;
    } else if (!word.empty()) {
      words.push_back(std::exchange(word, {}));
    }
  }
  if (words.empty()) words.emplace_back("c++");
  return words;
}

/// The text of a file.
inline std::string text_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw_errno(file, "open", errno);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// The first error of a compiler's output in one line, or what there is.
inline std::string first_error(const std::string& output) {
  std::size_t at = output.find("error: ");
  if (at == output.npos) at = 0;
  const std::size_t end = std::min(output.find('\n', at), output.size());
  const std::string line = output.substr(at, end - at);
  return line.empty() ? "no message" : printable(line, 300);
}

/// The source of a plugin.
inline std::string plugin_source(const PluginKey& key, const std::string& fingerprint) {
  const std::string type = "ds4::models::" + key.config.name;
  const bool simd = key.backend == "simd";
  std::string text = "#include \"config.hpp\"\n#include <ds4/runtime/" + key.backend + ".hpp>\n";
  if (key.trainable) text += "#include <ds4/runtime/trainable_of.hpp>\n";
  text += "#include <ds4/runtime/plugin_entry.hpp>\n";
  text += "DS4_PLUGIN(\"" + fingerprint + "\", " + type + ", " +
          (simd ? "ds4::Simd" : "ds4::Reference<float>") + ", " +
          (key.trainable ? "(&ds4::trainable_on_" + key.backend + "<" + type + ">)" : "nullptr") +
          ")\n";
  return text;
}

}  // namespace detail

/// A name for the configuration of a file: that of its folder, as a C++ identifier.
inline std::string plugin_name(const std::filesystem::path& config_file) {
  std::error_code error;
  const auto absolute = std::filesystem::absolute(config_file, error).lexically_normal();
  std::string name;
  const std::string folder = absolute.parent_path().filename().native();
  for (const char c : folder) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    name += letter || (c >= '0' && c <= '9') ? c : '_';
  }
  if (name.empty() || (name[0] >= '0' && name[0] <= '9')) name.insert(0, "model_");
  return name.substr(0, 64);
}

/// The folder of this user's plugins: ds4/models in $XDG_CACHE_HOME, or in ~/.cache. Created, for
/// this user alone, if `create` and it is missing. Throws ds4::Error if there is no such place, or
/// if others can write to it.
inline std::filesystem::path plugin_folder(bool create = false) {
  namespace fs = std::filesystem;
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  fs::path folder;
  if (cache != nullptr && *cache == '/') {  // others are to be ignored, by its specification
    folder = cache;
  } else if (home != nullptr && *home == '/') {
    folder = fs::path(home) / ".cache";
  } else {
    throw Error(ErrorKind::file, "cache",
                "expected the environment variable HOME or XDG_CACHE_HOME, found neither");
  }
  std::error_code error;
  if (create) fs::create_directories(folder, error);
  for (const char* const part : {"ds4", "models"}) {
    folder /= part;
    if (create && ::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
      detail::throw_errno(folder, "create", errno);
    }
    if (fs::symlink_status(folder, error).type() == fs::file_type::not_found) continue;
    detail::expect_own(folder, true);
  }
  return folder;
}

/// A checksum of the names and the content of ds4's headers in a folder. Throws ds4::Error if these
/// cannot be read.
inline std::uint64_t headers_checksum(const std::filesystem::path& headers) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(headers / "ds4", error)) {
    if (entry.path().extension() == ".hpp") files.push_back(entry.path());
  }
  if (error || files.empty()) {
    throw Error(ErrorKind::file, detail::printable_path(headers / "ds4"),
                "expected the headers of ds4, found none");
  }
  std::ranges::sort(files);
  detail::Checksum sum;
  const auto add = [&](std::string_view text) { sum.add(std::as_bytes(std::span(text))); };
  for (const fs::path& file : files) {
    add(file.lexically_relative(headers).native());
    add(detail::text_of(file));
  }
  return sum.value();
}

/// Tells what is compiled from anything else: the configuration but for its name, the backend, the
/// version of ds4 and its headers, whose checksum that is.
inline std::string plugin_fingerprint(const PluginKey& key, std::uint64_t headers) {
  detail::Checksum sum;
  const auto add = [&](std::string_view text) { sum.add(std::as_bytes(std::span(text))); };
  add(to_string(key.config));
  add(key.kind());
  add(kLibraryVersion);
  add(detail::hexadecimal(headers));
  return detail::hexadecimal(sum.value());
}

/// The same for the headers in a folder; throws as headers_checksum does.
inline std::string plugin_fingerprint(const PluginKey& key, const std::filesystem::path& headers) {
  return plugin_fingerprint(key, headers_checksum(headers));
}

/// The plugins in a folder, by name; none where there is no folder.
inline std::vector<PluginFile> list_plugins(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::vector<PluginFile> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::vector<std::string> parts{""};
    const std::string name = entry.path().filename().native();
    for (const char c : name) {
      if (c == '.') {
        parts.emplace_back();
      } else {
        parts.back() += c;
      }
    }
    if (parts.size() != 5 || parts[4] != "so") continue;
    const std::uintmax_t bytes = fs::file_size(entry.path(), error);
    if (error) continue;
    found.push_back({entry.path(), parts[0], parts[1], parts[2], static_cast<std::size_t>(bytes)});
  }
  std::ranges::sort(found, {}, &PluginFile::path);
  return found;
}

/// The newest plugin with this fingerprint, whatever compiler it is from.
inline std::optional<PluginFile> find_plugin(const std::filesystem::path& folder,
                                             std::string_view fingerprint) {
  std::optional<PluginFile> newest;
  std::filesystem::file_time_type time{};
  for (PluginFile& file : list_plugins(folder)) {
    std::error_code error;
    const auto written = std::filesystem::last_write_time(file.path, error);
    if (error || file.fingerprint != fingerprint || (newest && written <= time)) continue;
    time = written;
    newest = std::move(file);
  }
  return newest;
}

/// Loads a plugin into the process, for as long as this lives. Throws ds4::Error if others can
/// write to the file or its folder, or if it is no plugin of this fingerprint.
inline CompiledModel load_plugin(const PluginFile& file, const PluginHost& host) {
  detail::expect_own(file.path.parent_path(), true);
  detail::expect_own(file.path, false);
  const std::string where = detail::printable_path(file.path);
  void* const object = ::dlopen(file.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (object == nullptr) {
    throw Error(ErrorKind::file, where, "cannot be loaded: " + detail::printable(::dlerror(), 300));
  }
  const std::string name(detail::kPluginEntry);
  const auto entry = reinterpret_cast<detail::PluginEntry>(::dlsym(object, name.c_str()));
  const CompiledModel* const model =
      entry == nullptr ? nullptr : entry(file.fingerprint.c_str(), &host);
  if (model == nullptr) {
    throw Error(ErrorKind::file, where, "expected a compiled model of this name, found another");
  }
  return *model;
}

/// Compiles a plugin, unless the folder has it, and returns its file. It appears only when it is
/// complete: of two processes that add the same, both end with a good one. progress(seconds), if
/// any, is asked all the time whether to go on. Throws ds4::Stopped if it is not to, and ds4::Error
/// if the configuration cannot be compiled, if there is no compiler, or if it fails.
inline PluginFile add_plugin(const std::filesystem::path& folder, const PluginKey& key,
                             const PluginCompiler& compiler,
                             const std::function<bool(double)>& progress = {}) {
  namespace fs = std::filesystem;
  detail::expect_own(folder, true);
  const std::string fingerprint = plugin_fingerprint(key, compiler.headers);
  const detail::ScratchFolder scratch(folder);
  const fs::path log = scratch.path() / "log";

  std::vector<std::string> words = detail::compiler_words(compiler);
  std::vector<std::string> version = words;
  version.emplace_back("--version");
  if (detail::run_command(version, log, {}) != 0) {
    throw Error(ErrorKind::file, detail::printable(words[0]),
                "expected a C++ compiler that tells its version, found: " +
                    detail::first_error(detail::text_of(log)));
  }
  words.insert(words.end(),
               {"-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-w", "-shared",
                "-pthread", "-DDS4_SIMD_COMPILED", "-DDS4_SIMD_TRAINING_COMPILED"});
  words.insert(words.end(), compiler.flags.begin(), compiler.flags.end());
  detail::Checksum sum;  // of the compiler
  const std::string told = detail::text_of(log);
  sum.add(std::as_bytes(std::span(told)));
  for (const std::string& word : words) sum.add(std::as_bytes(std::span(word)));
  const fs::path path = folder / (key.config.name + "." + key.kind() + "." + fingerprint + "." +
                                  detail::hexadecimal(sum.value()) + ".so");
  std::error_code error;
  if (!fs::exists(path, error)) {
    std::ofstream(scratch.path() / "config.hpp")
        << config_header(key.config, key.config.name, "ds4 add");
    std::ofstream(scratch.path() / "plugin.cpp") << detail::plugin_source(key, fingerprint);
    const fs::path built = scratch.path() / "plugin.so";
    words.insert(words.end(),
                 {"-I", compiler.headers.native(), (scratch.path() / "plugin.cpp").native(), "-o",
                  built.native(), "-lpcre2-8"});
    const std::optional<int> code = detail::run_command(words, log, progress);
    if (!code) throw Stopped();
    if (*code != 0) {
      throw Error(
          ErrorKind::file, detail::printable(words[0]),
          "cannot compile " + key.config.name + ": " + detail::first_error(detail::text_of(log)));
    }
    ::chmod(built.c_str(), 0700);
    fs::rename(built, path, error);
    if (error) detail::throw_errno(path, "create", error.value());
  }
  const std::uintmax_t bytes = fs::file_size(path, error);
  return {path, key.config.name, key.kind(), fingerprint,
          error ? 0 : static_cast<std::size_t>(bytes)};
}

}  // namespace ds4::inline v0_1
