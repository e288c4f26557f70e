// Runs a fuzz target without libFuzzer: on the files of a corpus, then on mutations of them.
//   ds4_fuzz_NAME [--mutations N] [--seed S] FILE|FOLDER...
// The inputs are the same on every machine. They are read by a child process, each within a second
// of processor time and 64 MiB of memory beyond itself; the one that a child does not survive is
// written to ds4_fuzz_finding, and the exit code is 1.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <fuzz/fuzz.hpp>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <support/mutate.hpp>

// There in programs with a sanitizer that brings an allocator of its own.
extern "C" {
__attribute__((weak)) int __sanitizer_install_malloc_and_free_hooks(
    void (*malloc_hook)(const volatile void*, std::size_t),
    void (*free_hook)(const volatile void*));
__attribute__((weak)) std::size_t __sanitizer_get_allocated_size(const volatile void*);
}

namespace ds4::fuzz {
namespace {

constexpr std::ptrdiff_t kMemory = std::ptrdiff_t{64} << 20;
constexpr std::size_t kMaxInput = std::size_t{1} << 20;

struct Options {
  std::size_t mutations = 0;
  std::uint32_t seed = 1;
  std::vector<std::filesystem::path> paths;
};

struct Input {
  std::string name;
  std::string bytes;
};

/// What the child tells its parent; the input is still there when the child is not.
struct Shared {
  std::size_t done;
  std::size_t read;
  std::size_t refused;
  double slowest;  // seconds
  std::ptrdiff_t most_memory;
  std::size_t size;
  char name[512];
  std::byte input[kMaxInput];
};

// The child's memory, where the sanitizer's allocator tells; elsewhere RLIMIT_AS bounds it.
// Signed: what was allocated before is freed, too.
std::ptrdiff_t live = 0;
std::ptrdiff_t live_before = 0;
std::ptrdiff_t peak = 0;

void on_malloc(const volatile void*, std::size_t size) {
  live += static_cast<std::ptrdiff_t>(size);
  peak = std::max(peak, live);
  if (live > live_before + kMemory) {
    live = live_before = 0;  // the finding itself allocates
    finding("more than 64 MiB of memory");
  }
}
void on_free(const volatile void* memory) {
  if (memory != nullptr) {
    live -= static_cast<std::ptrdiff_t>(__sanitizer_get_allocated_size(memory));
  }
}

void limit_memory() {
  if (__sanitizer_install_malloc_and_free_hooks != nullptr) {
    __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    return;
  }
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t limit = pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) + kMemory;
  const struct rlimit both{limit, limit};
  ::setrlimit(RLIMIT_AS, &both);
}

double processor_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void run(Shared& shared, std::string_view name, std::string_view bytes) {
  shared.size = std::min(bytes.size(), kMaxInput);
  std::memcpy(shared.input, bytes.data(), shared.size);
  std::memset(shared.name, 0, sizeof shared.name);
  std::memcpy(shared.name, name.data(), std::min(name.size(), sizeof shared.name - 1));
  // A copy of exactly this size: reading behind it is seen.
  const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());

  constexpr itimerval kSecond{{0, 0}, {1, 0}};
  ::setitimer(ITIMER_PROF, &kSecond, nullptr);  // its signal ends the process
  const double begin = processor_seconds();
  peak = live_before = live;
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
  shared.slowest = std::max(shared.slowest, processor_seconds() - begin);
  shared.most_memory = std::max(shared.most_memory, peak - live_before);
  ++shared.done;
  shared.read = read_count;
  shared.refused = refused_count;
}

void run_all(Shared& shared, const Options& options, const std::vector<Input>& inputs) {
  limit_memory();
  for (const Input& input : inputs) run(shared, input.name, input.bytes);
  std::mt19937 random(options.seed);
  for (std::size_t i = 0; i < options.mutations; ++i) {
    const Input& input = inputs[i % inputs.size()];
    const Input& other = inputs[random() % inputs.size()];
    run(shared, "mutation " + std::to_string(i) + " of " + input.name,
        ds4::test::mutated(input.bytes, random, other.bytes));
  }
  constexpr itimerval kNever{};
  ::setitimer(ITIMER_PROF, &kNever, nullptr);
}

Options options_of(const std::vector<std::string>& words) {
  Options options;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto number = [&](auto& value) {
      const std::string& text = i + 1 < words.size() ? words[++i] : words[i];
      const auto end = text.data() + text.size();
      if (std::from_chars(text.data(), end, value).ptr != end) {
        throw std::runtime_error("expected a number, found " + text);
      }
    };
    if (words[i] == "--mutations") {
      number(options.mutations);
    } else if (words[i] == "--seed") {
      number(options.seed);
    } else {
      options.paths.emplace_back(words[i]);
    }
  }
  return options;
}

std::vector<Input> inputs_in(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::filesystem::path> files;
  for (const auto& path : paths) {
    if (std::filesystem::is_directory(path)) {
      for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry);
    } else {
      files.push_back(path);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Input> inputs;
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw std::runtime_error("cannot open " + file.string());
    inputs.push_back({file.filename().string(),
                      {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()}});
    if (inputs.back().bytes.size() > kMaxInput) throw std::runtime_error(file.string() + ": large");
  }
  if (inputs.empty()) throw std::runtime_error("expected files or folders with inputs, found none");
  return inputs;
}

int replay(const Options& options) {
  const std::vector<Input> inputs = inputs_in(options.paths);
  void* const memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  Shared& shared = *new (memory) Shared{};

  const auto begin = std::chrono::steady_clock::now();
  std::cout.flush();
  const ::pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("cannot fork");
  if (child == 0) {
    try {
      run_all(shared, options, inputs);
    } catch (const std::exception& error) {
      finding(error.what());
    }
    std::exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  std::filesystem::remove_all(folder_of(child));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;

  std::cout << inputs.size() << " files, " << options.mutations << " mutations with seed "
            << options.seed << ": " << shared.done << " inputs, read " << shared.read
            << " times, refused " << shared.refused << " times, in " << seconds.count()
            << " s; the slowest took " << shared.slowest << " s";
  if (shared.most_memory > 0) {
    std::cout << ", the largest " << (shared.most_memory >> 10) << " KiB";
  }
  std::cout << "\n";
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    if (shared.read > 0) return 0;
    std::cerr << "nothing was read: expected some of the corpus to be valid\n";
    return 1;
  }
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    std::cerr << "ended by a signal: "
              << (signal == SIGPROF ? "more than a second of processor time" : ::strsignal(signal))
              << "\n";
  }
  std::ofstream("ds4_fuzz_finding", std::ios::binary)
      .write(reinterpret_cast<const char*>(shared.input),
             static_cast<std::streamsize>(shared.size));
  std::cerr << "the input is in ds4_fuzz_finding: " << shared.name << "\n";
  return 1;
}

}  // namespace
}  // namespace ds4::fuzz

int main(int argc, char** argv) try {
  return ds4::fuzz::replay(ds4::fuzz::options_of({argv + 1, argv + argc}));
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 2;
}
