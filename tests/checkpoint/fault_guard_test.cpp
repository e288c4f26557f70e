// Tests of ds4/checkpoint/fault_guard.hpp: files that are shortened under a program.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ds4/checkpoint/fault_guard.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>

namespace {

namespace fs = std::filesystem;
using ds4::FaultGuard;
using ds4::MappedFile;
using ds4::test::error_text;
using ds4::test::TempDir;

constexpr std::size_t kPage = 4096;

/// Whether a process that calls f ends by SIGBUS.
template <class F>
bool ends_by_sigbus(F&& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    struct sigaction action{};
    action.sa_handler = SIG_DFL;  // a sanitizer has its own
    ::sigaction(SIGBUS, &action, nullptr);
    f();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}

std::byte last_of(const MappedFile& file) {
  const volatile std::byte* p = &file.bytes().back();
  return *p;
}

}  // namespace

TEST_CASE("fault guard: bytes that a file has lost are zeros, and check() says so") {
  const TempDir dir;
  const fs::path path = dir.write("a", std::string(5 * kPage, 'x'));
  const MappedFile file(path);
  const MappedFile other(dir.write("b", std::string(5 * kPage, 'y')));
  file.check();
  {
    const FaultGuard guard;
    fs::resize_file(path, 2 * kPage);
    CHECK(last_of(file) == std::byte{0});
    CHECK(file.bytes()[2 * kPage] == std::byte{0});
    CHECK(file.bytes()[2 * kPage - 1] == std::byte{'x'});  // still there
    CHECK(last_of(other) == std::byte{'y'});
    const auto text = error_text([&] { file.check(); });
    CHECK(text == ("ds4: " + path.string() +
                   ": expected 20480 bytes, as when it was opened, found 8192: it was shortened "
                   "while in use")
                      .c_str());
    other.check();
    fs::resize_file(path, 5 * kPage);  // too late: the zeros stay
    CHECK(error_text([&] { file.check(); }) ==
          ("ds4: " + path.string() + ": cannot be read: some of it was lost while in use").c_str());
  }
  MappedFile again(path);  // a new mapping has forgotten it
  again.check();
}

TEST_CASE("fault guard: without one, and for other memory, the process ends as usual") {
  const TempDir dir;
  const fs::path path = dir.write("a", std::string(2 * kPage, 'x'));
  const MappedFile file(path);
  fs::resize_file(path, 1);
  CHECK(ends_by_sigbus([&] { last_of(file); }));
  CHECK(ends_by_sigbus([&] {
    const FaultGuard guard;
    last_of(file);  // the guard has put zeros here
    void* p = ::mmap(nullptr, 2 * kPage, PROT_READ, MAP_SHARED,
                     ::open(path.c_str(), O_RDONLY | O_CLOEXEC), 0);
    const volatile std::byte* byte = static_cast<std::byte*>(p) + kPage;
    static_cast<void>(*byte);  // no MappedFile
  }));
  CHECK(ends_by_sigbus([] {
    const FaultGuard guard;
    ::raise(SIGBUS);
  }));
}

TEST_CASE("fault guard: guards nest, in any order") {
  const TempDir dir;
  const auto lose = [&](const char* name) {
    const MappedFile file(dir.write(name, std::string(3 * kPage, 'x')));
    fs::resize_file(file.path(), 1);
    return last_of(file);
  };
  auto first = std::make_unique<FaultGuard>();
  {
    const FaultGuard second;
    CHECK(lose("a") == std::byte{0});
  }
  CHECK(lose("b") == std::byte{0});
  auto third = std::make_unique<FaultGuard>();
  first.reset();
  CHECK(lose("c") == std::byte{0});
  third.reset();
  CHECK(ends_by_sigbus([&] { lose("d"); }));
  // Another fault goes to the handler of before all of them, once.
  CHECK(ends_by_sigbus([] {
    const FaultGuard outer;
    const FaultGuard inner;
    ::raise(SIGBUS);
  }));
}

TEST_CASE("fault guard: a range that is another file's by now matches neither between the two") {
  ds4::detail::MappedRange range;
  std::atomic<bool> done = false;
  std::thread other([&] {
    for (std::size_t i = 0; i < 200'000; ++i) {
      range.take(i % 2 == 0 ? 1000 : 100'000, 1000);
      range.give_up();
    }
    done = true;
  });
  std::size_t wrong = 0;
  while (!done) wrong += range.end_behind(50'000) != 0 ? 1 : 0;  // of neither
  other.join();
  CHECK(wrong == 0);
  CHECK(range.take(1000, 1000));
  CHECK(!range.take(5000, 1000));
  CHECK(range.end_behind(1000) == 2000);
  CHECK(range.end_behind(1999) == 2000);
  CHECK(range.end_behind(999) == 0);
  CHECK(range.end_behind(2000) == 0);
}

TEST_CASE_TEMPLATE("fault guard: a pass over weights that are gone is an error", B,
                   ds4::Reference<float>, ds4::Simd) {
  const TempDir dir;
  ds4::test::CheckpointCopy("quant").write(dir);
  const auto backend = [] {
    if constexpr (std::is_same_v<B, ds4::Simd>) {
      return ds4::Simd({.threads = 2, .memory_budget = 0});
    } else {
      return B();
    }
  };
  using Model = ds4::Model<ds4::models::quant, B>;
  Model model = Model::load(dir.path(), backend());
  auto state = model.new_state();
  const std::vector<std::int32_t> ids{1, 2, 3};
  model.prefill(state, ids);

  const FaultGuard guard;
  const fs::path weights = dir.path() / "model.safetensors";
  const auto size = fs::file_size(weights);
  fs::resize_file(weights, size / 2);
  const auto text = error_text([&] { model.decode(state, 4); });
  CHECK(text == ("ds4: " + weights.string() + ": expected " + std::to_string(size) +
                 " bytes, as when it was opened, found " + std::to_string(size / 2) +
                 ": it was shortened while in use")
                    .c_str());
  CHECK(error_text([&] { Model::load(dir.path(), backend()); }).size() > 0);
}
