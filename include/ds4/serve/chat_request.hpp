// Requests to /v1/chat/completions: from their JSON to what is to be done.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/serve/api_error.hpp>
#include <ds4/serve/request_fields.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/chat_message.hpp>
#include <ds4/text/python_json.hpp>
#include <ds4/text/turn_reader.hpp>

namespace ds4::inline v0_1 {

/// A chat whose next turn is asked for.
struct ChatRequest {
  RequestFields fields = {};               ///< how tokens are chosen, and how many
  std::vector<ChatMessage> messages = {};  ///< as a server has them: see parse_chat_request
  ChatOptions options = {};                ///< for ChatEncoding::encode
  bool calls = false;                      ///< the turn may have calls
  bool logprobs = false;                   ///< of each token
  std::size_t top_logprobs = 0;            ///< and of so many likeliest ones
  bool look = false;                       ///< `ds4_look`, an extension: events of a LiveLook
};

namespace detail {

/// A name out of `names`, or the message that DeepSeek's API has for another.
template <std::size_t N>
std::size_t variant_of(const PythonJson& value, const std::array<std::string_view, N>& names,
                       const std::string& param) {
  const auto at =
      value.kind == PythonJson::Kind::string ? std::ranges::find(names, value.text) : names.end();
  if (at != names.end()) return static_cast<std::size_t>(at - names.begin());
  std::string all;
  for (const std::string_view name : names) {
    all += (all.empty() ? "`" : ", `") + std::string(name) + "`";
  }
  throw ApiError(400,
                 "invalid request body: unknown variant `" +
                     (value.kind == PythonJson::Kind::string ? value.text : value.dump()) +
                     "`, expected one of " + all,
                 param);
}

/// thinking, reasoning_effort and chat_template_kwargs. Source: the fixture's page, section 9.
inline void set_thinking(const PythonJson& body, ChatOptions& options) {
  constexpr std::array<std::string_view, 8> kEfforts{"none", "minimal", "low",   "medium",
                                                     "high", "xhigh",   "ultra", "max"};
  constexpr std::array<std::string_view, 3> kTypes{"enabled", "adaptive", "disabled"};
  options.thinking = true;
  options.effort = ChatEffort::high;
  bool decided = false;
  const auto set_effort = [&](const PythonJson& value) {
    const std::size_t effort = variant_of(value, kEfforts, "reasoning_effort");
    if (effort == 0) {
      if (!decided) options.thinking = false;
    } else {
      options.effort = effort <= 2   ? ChatEffort::low
                       : effort <= 5 ? ChatEffort::high
                                     : ChatEffort::max;
    }
  };
  const PythonJson* const kwargs = member(body, "chat_template_kwargs");
  if (kwargs != nullptr && kwargs->kind != PythonJson::Kind::object) {
    throw ApiError(400, "Invalid type for 'chat_template_kwargs': expected an object",
                   "chat_template_kwargs");
  }
  if (const PythonJson* const thinking = member(body, "thinking")) {
    if (thinking->kind != PythonJson::Kind::object || member(*thinking, "type") == nullptr) {
      throw ApiError(400, "Invalid type for 'thinking': expected an object with a type",
                     "thinking");
    }
    options.thinking = variant_of(*member(*thinking, "type"), kTypes, "thinking.type") < 2;
    decided = true;
  } else if (kwargs != nullptr) {
    for (const std::string_view name : {"thinking", "enable_thinking"}) {
      if (member(*kwargs, name) == nullptr) continue;
      options.thinking = bool_member(*kwargs, name);
      decided = true;
    }
  }
  if (const PythonJson* const effort = member(body, "reasoning_effort")) {
    set_effort(*effort);
  } else if (kwargs != nullptr && member(*kwargs, "reasoning_effort") != nullptr) {
    set_effort(*member(*kwargs, "reasoning_effort"));
  }
}

inline void set_tools(const PythonJson& body, ChatRequest& request) {
  constexpr std::size_t kLongestName = 64;
  std::vector<std::string> names;
  auto& functions = request.options.tools.functions;
  if (const PythonJson* const tools = member(body, "tools")) {
    functions = tool_functions(*tools, "tools");
    for (std::size_t i = 0; i < tools->items.size(); ++i) {
      const std::string place = "tools[" + std::to_string(i) + "]";
      const PythonJson& tool = tools->items[i];
      if (const PythonJson* const type = member(tool, "type")) {
        variant_of(*type, std::array<std::string_view, 1>{"function"}, place + ".type");
      }
      const std::string name = string_member(object_member(tool, "function", place), "name", place);
      const bool fits = !name.empty() && std::ranges::all_of(name, [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
      });
      if (!fits || name.size() > kLongestName) {
        throw ApiError(400,
                       "Invalid '" + place +
                           ".function.name': string does not match pattern. "
                           "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
                       place + ".function.name");
      }
      if (std::ranges::count(names, name) > 0) {
        throw ApiError(400, "Tool names must be unique.", "tools");
      }
      names.push_back(name);
    }
  }
  const PythonJson* const choice = member(body, "tool_choice");
  bool required = false;
  if (choice != nullptr && choice->kind == PythonJson::Kind::object) {
    const std::string name = string_member(object_member(*choice, "function", "tool_choice"),
                                           "name", "tool_choice.function");
    const auto at = std::ranges::find(names, name);
    if (at == names.end()) {
      throw ApiError(400,
                     "Invalid value for 'tool_call': no function named '" + name +
                         "' was specified in the 'tools' parameter.",
                     "tool_choice");
    }
    functions = {functions[static_cast<std::size_t>(at - names.begin())]};
    required = true;
  } else if (choice != nullptr) {
    const std::size_t chosen = variant_of(
        *choice, std::array<std::string_view, 3>{"none", "auto", "required"}, "tool_choice");
    if (chosen == 0) functions.clear();
    required = chosen == 2;
    if (required && functions.empty()) {
      throw ApiError(400, "'tool_choice' is required, and there are no 'tools'", "tool_choice");
    }
  }
  if (required && request.options.thinking) {
    throw ApiError(400, "Thinking mode does not support this tool_choice", "tool_choice");
  }
  request.options.call_required = required;
  request.calls = !functions.empty();
}

/// Each call of an assistant has its result behind it, and each result its call.
inline void check_results(const std::vector<ChatMessage>& messages) {
  constexpr const char* kExpected =
      "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
      "'tool_call_id'";
  for (std::size_t i = 0; i < messages.size();) {
    if (messages[i].role == ChatRole::tool) {
      throw ApiError(400,
                     "Messages with role 'tool' must be a response to a preceding message with "
                     "'tool_calls'",
                     "messages");
    }
    const ChatMessage& message = messages[i++];
    if (message.calls.empty()) continue;
    std::set<std::string> open;
    for (const ToolCall& call : message.calls) open.insert(call.id);
    const std::set<std::string> known = open;
    for (; i < messages.size() && messages[i].role == ChatRole::tool; ++i) {
      if (!known.contains(messages[i].call_id)) {
        throw ApiError(400,
                       std::string(kExpected) +
                           ", The following tool_call_ids did not have response messages: " +
                           messages[i].call_id,
                       "messages");
      }
      open.erase(messages[i].call_id);
    }
    if (!open.empty()) {
      throw ApiError(
          400,
          std::string(kExpected) + ". (insufficient tool messages following tool_calls message)",
          "messages");
    }
  }
}

/// System and developer texts as one system message in front, an empty line between them.
inline std::vector<ChatMessage> with_one_system(std::vector<ChatMessage> messages) {
  std::vector<ChatMessage> result;
  std::string system;
  for (ChatMessage& message : messages) {
    if (message.role != ChatRole::system && message.role != ChatRole::developer) {
      result.push_back(std::move(message));
    } else if (!message.content.empty()) {
      system += (system.empty() ? "" : "\n\n") + message.content;
    }
  }
  if (!system.empty()) result.insert(result.begin(), ChatMessage{ChatRole::system, system});
  return result;
}

inline std::vector<ChatMessage> messages_of(const PythonJson& body) {
  const PythonJson* const list = member(body, "messages");
  if (list == nullptr || list->kind != PythonJson::Kind::array) {
    throw ApiError(400, "Invalid type for 'messages': expected an array", "messages");
  }
  if (list->items.empty()) throw ApiError(400, "Empty input messages", "messages");
  std::vector<ChatMessage> messages;
  for (std::size_t i = 0; i < list->items.size(); ++i) {
    const std::string place = "messages[" + std::to_string(i) + "]";
    ChatMessage message = chat_message(list->items[i], place);
    message.task = ChatTask::none;  // the release's own, no part of the protocol
    message.open = false;
    message.tools = {};
    if (member(list->items[i], "function_call") != nullptr) {
      throw ApiError(400, "'" + place + ".function_call' is not supported, 'tool_calls' is", place,
                     "unsupported_parameter");
    }
    if (bool_member(list->items[i], "prefix")) {
      if (message.role != ChatRole::assistant || i + 1 < list->items.size()) {
        throw ApiError(
            400,
            "Invalid completion message: prefix set true with message which is not final "
            "message or message role is not assistant",
            place + ".prefix");
      }
      message.open = true;
    }
    messages.push_back(std::move(message));
  }
  check_results(messages);
  return messages;
}

/// response_format; the schema is checked where its grammar is made.
inline void set_format(const PythonJson& body, ChatRequest& request) {
  const PythonJson* const format = member(body, "response_format");
  if (format == nullptr) return;
  if (format->kind != PythonJson::Kind::object || member(*format, "type") == nullptr) {
    throw ApiError(400, "Invalid type for 'response_format': expected an object with a type",
                   "response_format");
  }
  const std::size_t type =
      variant_of(*member(*format, "type"),
                 std::array<std::string_view, 3>{"text", "json_object", "json_schema"},
                 "response_format.type");
  if (type == 0) return;
  if (request.calls) {
    throw ApiError(400, "'response_format' beside 'tools' is not supported", "response_format",
                   "unsupported_parameter");
  }
  if (type == 2) {
    const PythonJson& named = object_member(*format, "json_schema", "response_format");
    request.options.tools.schema =
        object_member(named, "schema", "response_format.json_schema").dump();
    return;
  }
  const bool told = std::ranges::any_of(request.messages, [](const ChatMessage& message) {
    std::string lower = message.content;
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return lower.find("json") != lower.npos;
  });
  if (!told) {
    throw ApiError(400,
                   "Prompt must contain the word 'json' in some form to use 'response_format' of "
                   "type 'json_object'.",
                   "response_format");
  }
  request.options.tools.json_object = true;
}

}  // namespace detail

/// The request of a body. Messages become what a server shows to a model: system and developer
/// texts are one in front, and every answer is opened (ChatOptions::opens_answers). What a client
/// sends of temperature and top_p counts, also where it thinks. Members that are not known are
/// ignored; those that are and cannot be done are refused. Throws ApiError.
inline ChatRequest parse_chat_request(std::string_view body) {
  using namespace detail;
  const PythonJson json = parse_body(body);
  ChatRequest request;
  try {
    request.fields = request_fields(json);
    set_thinking(json, request.options);
    request.messages = messages_of(json);
    set_tools(json, request);
    if (request.messages.back().open && member(json, "tools") != nullptr) {
      throw ApiError(400, "Function call should not be used with prefix", "tools");
    }
    set_format(json, request);
    if (const auto most = size_member(json, "max_completion_tokens", 1, 393'216)) {
      request.fields.max_tokens = most;
    }
    if (request.options.thinking && request.calls && member(json, "top_p") == nullptr) {
      request.fields.choice.sampler.top_p = 0.95f;
    }
    request.logprobs = bool_member(json, "logprobs");
    request.look = bool_member(json, "ds4_look");
    if (request.look && (!request.fields.stream || request.fields.n > 1)) {
      throw ApiError(400, "ds4_look should be set along with stream = true and n = 1", "ds4_look");
    }
    if (const auto top = integer_member(json, "top_logprobs")) {
      if (!request.logprobs) {
        throw ApiError(400,
                       "Invalid top_logprobs and logprobs value, logprobs must be set to true if "
                       "top_logprobs is used.",
                       "top_logprobs");
      }
      if (*top < 0 || *top > 20) {
        throw ApiError(400,
                       "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].",
                       "top_logprobs");
      }
      request.top_logprobs = static_cast<std::size_t>(*top);
    }
  } catch (const ApiError&) {
    throw;
  } catch (const Error& error) {
    throw api_error(error.what(), ErrorKind::input);
  }
  request.messages = with_one_system(std::move(request.messages));
  request.options.opens_answers = true;
  return request;
}

/// How the turn that is asked for is read.
inline TurnOptions turn_options(const ChatRequest& request) {
  const bool answers = !request.messages.empty() && request.messages.back().open &&
                       !request.messages.back().content.empty();
  return {.thinking = request.options.thinking && !answers,
          .tools = request.calls,
          .in_calls = request.options.call_required,
          .stop = request.fields.stop};
}

}  // namespace ds4::inline v0_1
