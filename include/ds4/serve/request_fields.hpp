// What the bodies of all requests have in common.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/serve/api_error.hpp>
#include <ds4/serve/token_chooser.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/python_json.hpp>

namespace ds4::inline v0_1 {

/// How many answers a request may ask for at once.
inline constexpr std::size_t kMostChoices = 16;
/// How many stop texts a request may have.
inline constexpr std::size_t kMostStops = 16;

/// The members of a request that chats and completions have in common.
struct RequestFields {
  std::string model = {};                      ///< as asked for; empty: not told
  ChoiceOptions choice = {};                   ///< of tokens; its seed is that of the first answer
  std::optional<std::uint64_t> seed = {};      ///< none: any
  std::optional<std::size_t> max_tokens = {};  ///< none: not told
  std::vector<std::string> stop = {};          ///< texts that end the answer
  std::size_t n = 1;                           ///< answers
  bool stream = false;                         ///< as they come
  bool include_usage = false;                  ///< at the end of a stream
};

namespace detail {

/// A body as JSON. Throws ApiError if it is no object.
inline PythonJson parse_body(std::string_view body) {
  PythonJson json;
  try {
    json = PythonJson::parse(body);
  } catch (const Error& error) {
    throw ApiError(400, std::string("invalid request body: ") + error.what());
  }
  if (json.kind != PythonJson::Kind::object) {
    throw ApiError(400, "invalid request body: expected an object");
  }
  return json;
}

/// A member of an object that is a number; none if it is missing or null.
inline std::optional<double> number_member(const PythonJson& object, std::string_view name) {
  const PythonJson* const value = member(object, name);
  if (value == nullptr) return std::nullopt;
  double number = 0.0;
  const char* const end = value->text.data() + value->text.size();
  const auto parsed = std::from_chars(value->text.data(), end, number);
  if (value->kind != PythonJson::Kind::scalar || parsed.ec != std::errc() || parsed.ptr != end ||
      !std::isfinite(number)) {
    throw ApiError(400, "Invalid type for '" + std::string(name) + "': expected a number",
                   std::string(name));
  }
  return number;
}
/// One that is a whole number.
inline std::optional<std::int64_t> integer_member(const PythonJson& object, std::string_view name) {
  const PythonJson* const value = member(object, name);
  if (value == nullptr) return std::nullopt;
  std::int64_t number = 0;
  const char* const end = value->text.data() + value->text.size();
  const auto parsed = std::from_chars(value->text.data(), end, number);
  if (value->kind != PythonJson::Kind::scalar || parsed.ec != std::errc() || parsed.ptr != end) {
    throw ApiError(400, "Invalid type for '" + std::string(name) + "': expected an integer",
                   std::string(name));
  }
  return number;
}
/// One that is true or false; false if it is missing or null.
inline bool bool_member(const PythonJson& object, std::string_view name) {
  const PythonJson* const value = member(object, name);
  if (value == nullptr) return false;
  if (value->kind != PythonJson::Kind::scalar ||
      (value->text != "true" && value->text != "false")) {
    throw ApiError(400, "Invalid type for '" + std::string(name) + "': expected a boolean",
                   std::string(name));
  }
  return value->text == "true";
}
/// A whole number in a range, with the message that DeepSeek's API has.
inline std::optional<std::size_t> size_member(const PythonJson& object, std::string_view name,
                                              std::size_t least, std::size_t most) {
  const auto value = integer_member(object, name);
  if (!value) return std::nullopt;
  if (*value < static_cast<std::int64_t>(least) || *value > static_cast<std::int64_t>(most)) {
    const std::string text(name);
    throw ApiError(400,
                   "Invalid " + text + " value, the valid range of " + text + " is [" +
                       std::to_string(least) + ", " + std::to_string(most) + "]",
                   text);
  }
  return static_cast<std::size_t>(*value);
}

inline std::vector<std::string> stops_of(const PythonJson& body) {
  const PythonJson* const value = member(body, "stop");
  std::vector<std::string> stops;
  if (value == nullptr) return stops;
  const auto add = [&](const PythonJson& text) {
    if (text.kind != PythonJson::Kind::string) {
      throw ApiError(400, "Invalid type for 'stop': expected a string or an array of strings",
                     "stop");
    }
    if (text.text.empty()) {
      throw ApiError(
          400,
          "Invalid 'stop': empty string. Expected a string with minimum length 1, but got "
          "an empty string instead.",
          "stop");
    }
    stops.push_back(text.text);
  };
  if (value->kind == PythonJson::Kind::array) {
    if (value->items.size() > kMostStops) {
      throw ApiError(400, "Stop string array too long: " + std::to_string(value->items.size()),
                     "stop");
    }
    for (const PythonJson& text : value->items) add(text);
  } else {
    add(*value);
  }
  return stops;
}

inline std::vector<std::pair<std::int32_t, float>> bias_of(const PythonJson& body) {
  std::vector<std::pair<std::int32_t, float>> bias;
  const PythonJson* const value = member(body, "logit_bias");
  if (value == nullptr) return bias;
  const auto refuse_bias = [] {
    throw ApiError(
        400,
        "Invalid 'logit_bias': expected an object from token ids to numbers from -100 to "
        "100",
        "logit_bias");
  };
  if (value->kind != PythonJson::Kind::object) refuse_bias();
  for (const std::string& name : value->names) {
    std::int32_t id = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), id);
    const bool whole = parsed.ec == std::errc() && parsed.ptr == name.data() + name.size();
    const auto number = number_member(*value, name);
    if (!whole || id < 0 || !number || std::abs(*number) > 100) refuse_bias();
    bias.emplace_back(id, static_cast<float>(number.value_or(0.0)));
  }
  return bias;
}

/// Throws ApiError if a member is there and does not say what would be done without it.
inline void refuse_members(const PythonJson& body) {
  // A member, and the one value that changes nothing; "" is none.
  constexpr std::array<std::pair<std::string_view, std::string_view>, 18> kRefused{
      {{"functions", ""},
       {"function_call", ""},
       {"audio", ""},
       {"web_search_options", ""},
       {"best_of", "1"},
       {"repetition_penalty", "1"},
       {"min_tokens", "0"},
       {"ignore_eos", "false"},
       {"stop_token_ids", "[]"},
       {"prompt_logprobs", "0"},
       {"guided_json", ""},
       {"guided_regex", ""},
       {"guided_choice", ""},
       {"guided_grammar", ""},
       {"grammar", ""},
       {"json_schema", ""},
       {"suffix", "\"\""},
       {"modalities", "[\"text\"]"}}};
  for (const auto& [name, harmless] : kRefused) {
    const PythonJson* const value = member(body, name);
    if (value == nullptr) continue;
    const std::string text = value->dump();
    if (text == harmless || text == std::string(harmless) + ".0") continue;
    throw ApiError(400, "'" + std::string(name) + "' is not supported", std::string(name),
                   "unsupported_parameter");
  }
}

/// The common members of a body.
inline RequestFields request_fields(const PythonJson& body) {
  constexpr std::size_t kMostTokens = 393'216;
  refuse_members(body);
  RequestFields fields;
  if (const PythonJson* const model = member(body, "model")) {
    if (model->kind != PythonJson::Kind::string) {
      throw ApiError(400, "Invalid type for 'model': expected a string", "model");
    }
    fields.model = model->text;
  }
  const auto number = [&](std::string_view name, double low, double high, const char* range) {
    const auto value = number_member(body, name);
    if (value && !(*value >= low && *value <= high)) {
      const std::string text(name);
      throw ApiError(400, "Invalid " + text + " value, the valid range of " + text + " is " + range,
                     text);
    }
    return value;
  };
  ChoiceOptions& choice = fields.choice;
  choice.sampler.temperature =
      static_cast<float>(number("temperature", 0, 2, "[0, 2]").value_or(1.0));
  // The least number above 0 that a float can be.
  choice.sampler.top_p = static_cast<float>(number("top_p", 1e-30, 1, "(0, 1.0]").value_or(1.0));
  choice.min_p = static_cast<float>(number("min_p", 0, 1, "[0, 1]").value_or(0.0));
  choice.presence_penalty =
      static_cast<float>(number("presence_penalty", -2, 2, "[-2, 2]").value_or(0.0));
  choice.frequency_penalty =
      static_cast<float>(number("frequency_penalty", -2, 2, "[-2, 2]").value_or(0.0));
  const auto top_k = integer_member(body, "top_k");
  if (top_k && (*top_k < -1 || *top_k > 1'000'000)) {
    throw ApiError(400, "Invalid top_k value, the valid range of top_k is [-1, 1000000]", "top_k");
  }
  choice.sampler.top_k = static_cast<std::int32_t>(top_k && *top_k > 0 ? *top_k : 0);
  choice.bias = bias_of(body);
  if (const auto seed = integer_member(body, "seed")) {
    fields.seed = static_cast<std::uint64_t>(*seed);
  }
  fields.stop = stops_of(body);
  fields.n = size_member(body, "n", 1, kMostChoices).value_or(1);
  fields.stream = bool_member(body, "stream");
  if (const PythonJson* const options = member(body, "stream_options")) {
    if (!fields.stream) {
      throw ApiError(400, "stream_options should be set along with stream = true",
                     "stream_options");
    }
    if (options->kind != PythonJson::Kind::object) {
      throw ApiError(400, "Invalid type for 'stream_options': expected an object",
                     "stream_options");
    }
    fields.include_usage = bool_member(*options, "include_usage");
  }
  fields.max_tokens = size_member(body, "max_tokens", member(body, "prompt") ? 0 : 1, kMostTokens);
  return fields;
}

}  // namespace detail

}  // namespace ds4::inline v0_1
