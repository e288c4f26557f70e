// Fuzz target: a session's file, as it is and with its beginnings and its checksums set right.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>

#include <fuzz/fuzz.hpp>
#include <fuzz/small_state.hpp>

#include <ds4/state/session.hpp>

namespace {

using ds4::fuzz::State;

constexpr std::size_t kBeginning = 8 + 4 + 8;  // magic, version, fingerprint of the weights
constexpr std::uint64_t kWeights = 0;

/// The session with the state in it repaired, and a checksum of the other pieces in its place.
std::string repaired(std::string_view bytes) {
  if (bytes.size() < kBeginning) return std::string(bytes);
  std::string out(ds4::detail::kSessionMagic.begin(), ds4::detail::kSessionMagic.end());
  const std::uint32_t version = ds4::detail::kSessionVersion;
  out.append(reinterpret_cast<const char*>(&version), sizeof version);
  out.append(reinterpret_cast<const char*>(&kWeights), sizeof kWeights);
  out += ds4::fuzz::repaired_state(bytes.substr(kBeginning));

  const auto in_state =
      ds4::fuzz::pieces_of(std::string_view(out).substr(kBeginning),
                           [](std::istream& stream) { State::deserialise(stream); });
  const auto sizes = ds4::fuzz::pieces_of(out, [](std::istream& stream) {
    ds4::detail::read_session<State>(stream, "session", kWeights);
  });
  // The state is behind these three; where it cannot be read, nothing else is mended.
  if (sizes.size() > 3 + in_state.size()) {
    ds4::fuzz::repair_checksum(out, sizes, 3, in_state.size());
  }
  return out;
}

void read(const std::string& bytes) {
  using namespace ds4;
  fuzz::result_or_error([&] {
    std::istringstream stream(bytes);
    const Session<State> session = detail::read_session<State>(stream, "session", kWeights);
    // A session that was read is one that can be continued.
    fuzz::require(session.pending().size() == session.ids.size() - session.state.position(),
                  "tokens that are neither taken in nor pending");
    fuzz::require(std::ranges::all_of(session.ids,
                                      [](std::int32_t id) {
                                        return id >= 0 && static_cast<std::size_t>(id) <
                                                              State::Config::vocab_size;
                                      }),
                  "an id outside the vocabulary");
    fuzz::require(bytes.find(fuzz::saved(session.state)) == kBeginning,
                  "a state that is not what the file says");
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  if (const std::string other = repaired(bytes); other != bytes) read(other);
  return 0;
}
