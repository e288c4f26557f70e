// Lists of token ids and of texts as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/config/config_values.hpp>

namespace ds4::cli {

/// An array of arrays of token ids. Throws ds4::Error at `where` for anything else.
std::vector<std::vector<std::int32_t>> parse_token_lists(std::string_view where,
                                                         std::string_view json);

/// Those of a file. Throws ds4::Error as well if it cannot be read or has no list.
std::vector<std::vector<std::int32_t>> read_token_lists(const std::string& file);

/// Throws ds4::Error, naming the file they are from, unless a model of this configuration can take
/// in every list: at least one token, no more than its context, ids of its vocabulary.
void check_token_lists(std::string_view file, const std::vector<std::vector<std::int32_t>>& lists,
                       const ConfigValues& config);

/// Puts the begin-of-sequence token, which the tokenizer does not add, in front unless it is there
/// or there is none.
void put_bos_in_front(std::vector<std::int32_t>& ids, const ConfigValues& config);

/// An array of strings. Throws ds4::Error at `where` for anything else.
std::vector<std::string> parse_texts(std::string_view where, std::string_view json);

}  // namespace ds4::cli
