// How far a verb has got that takes long.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ds4::cli {

/// A line on standard error that is rewritten as work is done; nothing if that is not a terminal.
class ProgressBar {
 public:
  /// What is counted: bytes of files, or tokens of a prompt, whose line goes away at the end.
  enum class Of : std::uint8_t { bytes, tokens };

  explicit ProgressBar(Of of = Of::bytes) : of_(of) {}
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  /// Ends the line if the work has been cut short.
  ~ProgressBar();

  void show(std::size_t done, std::size_t total);

 private:
  Of of_;
  int shown_ = -1;  // percent
};

}  // namespace ds4::cli
