// Lists of token ids and of texts as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ds4::cli {

/// An array of arrays of token ids. Throws ds4::Error at `where` for anything else.
std::vector<std::vector<std::int32_t>> parse_token_lists(std::string_view where,
                                                         std::string_view json);

/// An array of strings. Throws ds4::Error at `where` for anything else.
std::vector<std::string> parse_texts(std::string_view where, std::string_view json);

}  // namespace ds4::cli
