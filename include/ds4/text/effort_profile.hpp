// Which release's effort texts a checkpoint goes with.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

#include <ds4/core/version.hpp>
#include <ds4/text/chat_message.hpp>

namespace ds4::inline v0_1 {

/// That of the encoder which lies in the checkpoint's folder, encoding/encoding_dsv4.py: the April
/// preview's has one text, the releases' since 0731 have several. `release` where there is none.
inline EffortProfile effort_profile_of(const std::filesystem::path& dir) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  const std::filesystem::path file = dir / "encoding" / "encoding_dsv4.py";
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error) ||
      std::filesystem::file_size(file, error) > kMostBytes) {
    return EffortProfile::release;
  }
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const bool several = text.find("REASONING_EFFORT_PROMPTS") != text.npos;
  const bool one = text.find("REASONING_EFFORT_MAX") != text.npos;
  return one && !several ? EffortProfile::preview : EffortProfile::release;
}

}  // namespace ds4::inline v0_1
