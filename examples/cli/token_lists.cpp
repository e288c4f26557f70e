#include "cli/token_lists.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/json.hpp>
#include <ds4/core/messages.hpp>

#include "cli/io.hpp"

namespace ds4::cli {

namespace {

[[noreturn]] void refuse(const std::string& where, const char* expected,
                         const nlohmann::json& found) {
  throw Error(where, std::string("expected ") + expected + ", found " + detail::describe(found));
}

}  // namespace

std::vector<std::vector<std::int32_t>> parse_token_lists(std::string_view name,
                                                         std::string_view json) {
  const std::string where = detail::printable(name, 1024);
  const nlohmann::json root = detail::parse_json(where, json);
  if (!root.is_array()) refuse(where, "an array of arrays of token ids", root);
  std::vector<std::vector<std::int32_t>> lists;
  for (std::size_t i = 0; i < root.size(); ++i) {
    const std::string list_name = where + ": sequence " + std::to_string(i);
    if (!root[i].is_array()) refuse(list_name, "an array of token ids", root[i]);
    auto& ids = lists.emplace_back();
    for (std::size_t t = 0; t < root[i].size(); ++t) {
      const auto id = detail::as_size(root[i][t]);
      if (!id || *id > std::numeric_limits<std::int32_t>::max()) {
        refuse(list_name + ", token " + std::to_string(t), "a token id", root[i][t]);
      }
      ids.push_back(static_cast<std::int32_t>(*id));
    }
  }
  return lists;
}

std::vector<std::vector<std::int32_t>> read_token_lists(const std::string& file) {
  auto lists = parse_token_lists(file, read_file(file));
  if (lists.empty()) {
    throw Error(detail::printable(file, 1024), "found no sequences, expected at least one");
  }
  return lists;
}

void check_token_lists(std::string_view file, const std::vector<std::vector<std::int32_t>>& lists,
                       const ConfigValues& config) {
  for (std::size_t i = 0; i < lists.size(); ++i) {
    const auto& ids = lists[i];
    const std::string where = detail::printable(file, 1024) + ": sequence " + std::to_string(i);
    if (ids.empty()) throw Error(where, "found no tokens, expected at least one");
    if (ids.size() > config.max_position_embeddings) {
      throw Error(where, "found " + std::to_string(ids.size()) +
                             " tokens, expected at most max_position_embeddings " +
                             std::to_string(config.max_position_embeddings));
    }
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] < 0 || static_cast<std::size_t>(ids[t]) >= config.vocab_size) {
        throw Error(where + ", token " + std::to_string(t),
                    "found id " + std::to_string(ids[t]) + ", expected 0 to " +
                        std::to_string(config.vocab_size - 1));
      }
    }
  }
}

void put_bos_in_front(std::vector<std::int32_t>& ids, const ConfigValues& config) {
  if (!config.bos_token_id) return;
  const auto bos = static_cast<std::int32_t>(*config.bos_token_id);
  if (ids.empty() || ids.front() != bos) ids.insert(ids.begin(), bos);
}

std::vector<std::string> parse_texts(std::string_view name, std::string_view json) {
  const std::string where = detail::printable(name, 1024);
  nlohmann::json root = detail::parse_json(where, json);
  if (!root.is_array()) refuse(where, "an array of strings", root);
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < root.size(); ++i) {
    if (!root[i].is_string()) refuse(where + ": text " + std::to_string(i), "a string", root[i]);
    texts.push_back(std::move(root[i].get_ref<std::string&>()));
  }
  return texts;
}

}  // namespace ds4::cli
