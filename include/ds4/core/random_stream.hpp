// Random numbers that are the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::detail {

/// A stream of random numbers that is the same on every machine.
class RandomStream {
 public:
  /// A function of the seed and a name, e.g. a tensor's.
  RandomStream(std::uint64_t seed, std::string_view name) : state_(seed) {
    for (const char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  /// SplitMix64.
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// Four values of mean 0 and variance 1: each the sum of 4 uniform bytes' worth, near normal.
  void normal(float (&out)[4]) {
    std::uint64_t a = next();
    std::uint64_t b = next();
    for (float& value : out) {
      const auto sum =
          static_cast<std::int32_t>((a & 0xff) + (a >> 8 & 0xff) + (b & 0xff) + (b >> 8 & 0xff));
      // Mean 4 * 127.5; variance 4 * (256^2 - 1) / 12.
      value = (static_cast<float>(sum) - 510.0f) * 0.00676593f;
      a >>= 16;
      b >>= 16;
    }
  }

 private:
  std::uint64_t state_;
};

/// Moves `count` of the values, at random and each once, to the front: the start of a shuffle.
template <class T>
void draw(RandomStream& random, std::span<T> values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    std::swap(values[i], values[i + random.next() % (values.size() - i)]);
  }
}

}  // namespace ds4::inline v0_1::detail
