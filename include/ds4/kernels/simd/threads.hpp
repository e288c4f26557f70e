// The threads of one object.
#pragma once

#include <cstddef>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <sys/types.h>
#include <unistd.h>

#include <ds4/core/error.hpp>

namespace ds4::inline v0_1::simd {

/// Threads that end with their owner. A process that fork() makes has none of them, though it has
/// the owner.
class Threads {
 public:
  Threads() = default;
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  /// They have been joined.
  ~Threads() {
    if (are_here()) return;
    [[maybe_unused]] const auto* left = threads_.release();  // cannot be joined, nor be destroyed
  }

  std::size_t size() const { return threads_->size(); }
  /// Starts one that calls f().
  template <class F>
  void start(F&& f) {
    if (threads_->empty()) process_ = ::getpid();
    threads_->emplace_back(std::forward<F>(f));
  }
  /// Waits until all have returned.
  void join() {
    if (!are_here()) return;
    for (std::thread& thread : *threads_) thread.join();
  }

  /// Throws ds4::Error if there are threads that fork() has left behind: who waits for them would
  /// do so forever.
  void check() const {
    if (are_here()) return;
    throw Error("threads of a backend",
                "expected the process that has started them, found one "
                "that fork() made of it: load the model behind fork()");
  }

 private:
  bool are_here() const { return threads_->empty() || process_ == ::getpid(); }

  ::pid_t process_ = 0;  // that has started them
  std::unique_ptr<std::vector<std::thread>> threads_ = std::make_unique<std::vector<std::thread>>();
};

}  // namespace ds4::inline v0_1::simd
