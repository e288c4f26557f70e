// A streaming top-k: the best entries of any number of scores in memory that does not grow.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ds4::inline v0_1::simd {

/// An entry that may be among the best.
struct Candidate {
  float score;
  std::int32_t entry;
  /// A total order: the larger score first, a tie to the lower entry.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.entry < b.entry;
  }
};

/// Keeps the best `topk` of a stream of candidates in a buffer of 2 * topk (or more).
class TopK {
 public:
  TopK(Candidate* buffer, std::size_t topk) : buffer_(buffer), topk_(topk) {}

  /// Takes the entries first .. first + count - 1.
  void add(const float* scores, std::int32_t first, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      // Entries come in ascending order, so an equal score never beats the threshold.
      if (full_ && !(scores[i] > threshold_)) continue;
      buffer_[size_++] = {scores[i], first + static_cast<std::int32_t>(i)};
      if (size_ == 2 * topk_) cut();
    }
  }
  /// Takes one candidate of another list.
  void add(const Candidate& candidate) {
    buffer_[size_++] = candidate;
    if (size_ == 2 * topk_) cut();
  }

  /// The best, unordered, at the start of the buffer.
  std::span<const Candidate> finish() {
    if (size_ > topk_) cut();
    return {buffer_, size_};
  }

 private:
  void cut() {
    std::nth_element(buffer_, buffer_ + (topk_ - 1), buffer_ + size_);
    size_ = topk_;
    threshold_ = buffer_[topk_ - 1].score;
    full_ = true;
  }

  Candidate* buffer_;
  std::size_t topk_;
  std::size_t size_ = 0;
  float threshold_ = 0.0f;
  bool full_ = false;
};

}  // namespace ds4::inline v0_1::simd
