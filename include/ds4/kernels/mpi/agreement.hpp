// What ranks compare before they run a model together.
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

#include <ds4/core/checked_stream.hpp>
#include <ds4/core/error.hpp>
#include <ds4/kernels/mpi/ranks.hpp>

namespace ds4::inline v0_1::mpi {

/// Names and values that have to be the same on all ranks, in the same order.
using Facts = std::vector<std::pair<std::string, std::string>>;

/// A text's checksum, for texts that are too long to be told.
inline std::string checksum_of(const std::string& text) {
  detail::Checksum sum;
  sum.add(std::as_bytes(std::span(text)));
  return detail::hexadecimal(sum.value());
}

/// The machine's name.
inline std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

/// Throws ds4::Error, the same on all ranks, that names the first rank whose facts are not those of
/// rank 0.
inline void expect_agreement(Ranks& ranks, const Facts& facts) {
  std::string text;
  for (const auto& [name, value] : facts) text += value + '\n';
  const std::vector<std::string> texts = ranks.gather_texts(text);
  const std::vector<std::string> hosts = ranks.gather_texts(host_name());
  for (std::size_t r = 1; r < texts.size(); ++r) {
    std::string_view found = texts[r];
    std::string_view expected = texts[0];
    for (const auto& [name, value] : facts) {
      const std::string_view of_rank = found.substr(0, found.find('\n'));
      const std::string_view of_first = expected.substr(0, expected.find('\n'));
      if (of_rank != of_first) {
        throw Error("rank " + std::to_string(r) + " on " + hosts[r],
                    name + ": found " + std::string(of_rank) + ", expected " +
                        std::string(of_first) + " as on rank 0 on " + hosts[0]);
      }
      found.remove_prefix(std::min(found.size(), of_rank.size() + 1));
      expected.remove_prefix(std::min(expected.size(), of_first.size() + 1));
    }
  }
}

/// The place in a list, best first, of the best that every rank has: each says which it has. Throws
/// ds4::Error if there is none.
inline std::size_t best_of_all(Ranks& ranks, std::size_t choices,
                               const std::vector<std::size_t>& own) {
  std::vector<std::byte> has(ranks.size() * choices);
  for (const std::size_t choice : own) has[ranks.rank() * choices + choice] = std::byte{1};
  ranks.gather(has.data(), choices);
  for (std::size_t choice = 0; choice < choices; ++choice) {
    bool all = true;
    for (std::size_t r = 0; r < ranks.size(); ++r)
      all = all && has[r * choices + choice] != std::byte{};
    if (all) return choice;
  }
  throw Error("ranks", "found no instruction set that all machines have, expected one");
}

}  // namespace ds4::inline v0_1::mpi
