// Requests to /v1/completions: from their JSON to what is to be done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/serve/api_error.hpp>
#include <ds4/serve/request_fields.hpp>
#include <ds4/text/python_json.hpp>

namespace ds4::inline v0_1 {

/// Texts, or token ids, that are to be continued.
struct CompletionRequest {
  RequestFields fields = {};  ///< max_tokens is set
  /// Each a text, in front of which the begin-of-sequence token is put, or ids as they are.
  std::vector<std::variant<std::string, std::vector<std::int32_t>>> prompts = {};
  bool echo = false;                         ///< the prompt is told in front of the text
  std::optional<std::size_t> logprobs = {};  ///< of each token, and of so many likeliest ones
};

/// How many prompts a request may have.
inline constexpr std::size_t kMostPrompts = 64;

/// The request of a body. Throws ApiError.
inline CompletionRequest parse_completion_request(std::string_view body) {
  using namespace detail;
  const PythonJson json = parse_body(body);
  CompletionRequest request;
  const PythonJson* const prompt = member(json, "prompt");
  const auto refuse_prompt = [] {
    throw ApiError(400,
                   "Invalid type for 'prompt': expected a string, an array of strings, an array of "
                   "token ids or an array of such arrays, none of them empty",
                   "prompt");
  };
  const auto ids_of = [&](const PythonJson& list) {
    std::vector<std::int32_t> ids;
    for (const PythonJson& item : list.items) {
      std::int32_t id = 0;
      const char* const end = item.text.data() + item.text.size();
      const auto parsed = std::from_chars(item.text.data(), end, id);
      if (item.kind != PythonJson::Kind::scalar || parsed.ec != std::errc() || parsed.ptr != end) {
        refuse_prompt();
      }
      ids.push_back(id);
    }
    if (ids.empty()) refuse_prompt();
    return ids;
  };
  if (prompt == nullptr) refuse_prompt();
  if (prompt->kind == PythonJson::Kind::string) {
    request.prompts.emplace_back(prompt->text);
  } else if (prompt->kind == PythonJson::Kind::array && !prompt->items.empty()) {
    if (prompt->items.size() > kMostPrompts && prompt->items[0].kind != PythonJson::Kind::scalar) {
      throw ApiError(400,
                     "Too many prompts: " + std::to_string(prompt->items.size()) +
                         ", expected at most " + std::to_string(kMostPrompts),
                     "prompt");
    }
    for (const PythonJson& item : prompt->items) {
      if (item.kind == PythonJson::Kind::scalar) {
        request.prompts.assign(1, ids_of(*prompt));
        break;
      }
      if (item.kind == PythonJson::Kind::string) {
        request.prompts.emplace_back(item.text);
      } else if (item.kind == PythonJson::Kind::array) {
        request.prompts.emplace_back(ids_of(item));
      } else {
        refuse_prompt();
      }
    }
  } else {
    refuse_prompt();
  }
  constexpr std::size_t kDefaultTokens = 16;
  request.fields = request_fields(json);
  request.echo = bool_member(json, "echo");
  request.logprobs = size_member(json, "logprobs", 0, 20);
  if (!request.fields.max_tokens) request.fields.max_tokens = kDefaultTokens;
  if (*request.fields.max_tokens == 0 && !request.echo) {
    throw ApiError(400, "Invalid max_tokens value, 0 is for echo alone", "max_tokens");
  }
  return request;
}

}  // namespace ds4::inline v0_1
