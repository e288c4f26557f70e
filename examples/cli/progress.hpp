// How far a verb that writes a checkpoint has got.
#pragma once

#include <cstddef>

namespace ds4::cli {

/// A line on standard error that is rewritten as bytes are; nothing if that is not a terminal.
class ProgressBar {
 public:
  ProgressBar() = default;
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  /// Ends the line if the work has been cut short.
  ~ProgressBar();

  void show(std::size_t written, std::size_t total);

 private:
  int shown_ = -1;  // percent
};

}  // namespace ds4::cli
