// Seconds that something takes.
#pragma once

#include <chrono>

namespace ds4::cli {

/// Runs from when it is made on.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace ds4::cli
