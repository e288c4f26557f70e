// A safetensors file made consistent, so that damage to the header's text gets past its length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ds4::fuzz {

/// bytes with the header's text cut or padded where its outermost value ends, and the length of
/// that in front.
inline std::string with_header_length(std::string_view bytes) {
  if (bytes.size() < 8) return std::string(bytes);
  std::string_view text = bytes.substr(8);
  std::size_t depth = 0;
  std::size_t end = 0;
  bool quoted = false;
  for (; end < text.size(); ++end) {
    const char c = text[end];
    if (c == '"') quoted = !quoted;
    if (quoted && c == '\\') ++end;
    if (quoted) continue;
    if (c == '{' || c == '[') ++depth;
    if ((c == '}' || c == ']') && (depth == 0 || --depth == 0)) break;
  }
  end = end < text.size() ? end + 1 : text.size();
  std::string header(text.substr(0, end));
  text.remove_prefix(end);
  while (text.starts_with(' ')) text.remove_prefix(1);
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string out;
  for (unsigned i = 0; i < 8; ++i) {
    out += static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i) & 0xff);
  }
  return out + header + std::string(text);
}

}  // namespace ds4::fuzz
