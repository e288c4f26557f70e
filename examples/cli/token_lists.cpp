#include "cli/token_lists.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/detail/json.hpp>
#include <ds4/error.hpp>

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
