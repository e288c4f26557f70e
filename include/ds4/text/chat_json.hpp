// Messages and tools as requests to a chat have them in JSON.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/text/chat_message.hpp>
#include <ds4/text/python_json.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// The names of roles and of tasks, in the order of their types.
inline constexpr std::array<std::string_view, 6> kRoleNames{"system",    "user", "assistant",
                                                            "developer", "tool", "latest_reminder"};
inline constexpr std::array<std::string_view, 7> kTaskNames{
    "", "action", "query", "authority", "domain", "title", "read_url"};

/// A member of an object, or null: there is none, or it is null.
inline const PythonJson* member(const PythonJson& object, std::string_view name) {
  const auto at = std::ranges::find(object.names, name);
  if (at == object.names.end()) return nullptr;
  const PythonJson& value = object.items[static_cast<std::size_t>(at - object.names.begin())];
  const bool null = value.kind == PythonJson::Kind::scalar && value.text == "null";
  return null ? nullptr : &value;
}
const PythonJson* member(PythonJson&&, std::string_view) = delete;  // it would not live long enough
[[noreturn]] inline void refuse(const std::string& where, std::string_view expected,
                                const PythonJson* found) {
  const std::string text = found == nullptr ? "none" : found->dump();
  constexpr std::size_t kShown = 60;
  throw Error(where, "expected " + std::string(expected) + ", found " +
                         printable(std::string_view(text).substr(0, kShown)));
}
/// A member that has to be a string; "" if there is none.
inline std::string string_member(const PythonJson& object, std::string_view name,
                                 const std::string& where) {
  const PythonJson* const value = member(object, name);
  if (value == nullptr) return "";
  if (value->kind != PythonJson::Kind::string) {
    refuse(where + "." + std::string(name), "a string", value);
  }
  return value->text;
}
/// A member that has to be an object.
inline const PythonJson& object_member(const PythonJson& object, std::string_view name,
                                       const std::string& where) {
  const PythonJson* const value = member(object, name);
  if (value == nullptr || value->kind != PythonJson::Kind::object) {
    refuse(where + "." + std::string(name), "an object", value);
  }
  return *value;
}
const PythonJson& object_member(PythonJson&&, std::string_view, const std::string&) = delete;
inline bool is_true(const PythonJson* value) {
  return value != nullptr && value->kind == PythonJson::Kind::scalar && value->text == "true";
}
/// The number of a name among `names`.
template <std::size_t N>
std::size_t number_of(std::string_view name, const std::array<std::string_view, N>& names,
                      const std::string& where) {
  const auto at = std::ranges::find(names, name);
  if (at != names.end()) return static_cast<std::size_t>(at - names.begin());
  std::string all;
  for (const std::string_view known : names) {
    if (!known.empty()) all.append(all.empty() ? "" : ", ").append(known);
  }
  throw Error(where, "expected one of " + all + ", found " + in_quotes(name));
}

/// Content: a string, nothing, or parts of text, which have an empty line between them.
inline std::string content_of(const PythonJson& message, const std::string& where) {
  const PythonJson* const content = member(message, "content");
  if (content == nullptr || content->kind != PythonJson::Kind::array) {
    return string_member(message, "content", where);
  }
  std::string text;
  for (std::size_t i = 0; i < content->items.size(); ++i) {
    const std::string place = where + ".content[" + std::to_string(i) + "]";
    const PythonJson* const type = member(content->items[i], "type");
    if (type == nullptr || type->text != "text") refuse(place + ".type", "\"text\"", type);
    text += (i == 0 ? "" : "\n\n") + string_member(content->items[i], "text", place);
  }
  return text;
}

}  // namespace detail

/// The JSON texts of the functions of a list of tools, [{"type": "function", "function": {...}},
/// ...]. Throws ds4::Error that begins with `where` for another value.
inline std::vector<std::string> tool_functions(const PythonJson& tools, const std::string& where) {
  if (tools.kind != PythonJson::Kind::array) detail::refuse(where, "an array", &tools);
  std::vector<std::string> functions;
  for (std::size_t i = 0; i < tools.items.size(); ++i) {
    const std::string place = where + "[" + std::to_string(i) + "]";
    functions.push_back(detail::object_member(tools.items[i], "function", place).dump());
  }
  return functions;
}

/// A message: its role, content, reasoning_content (or reasoning), tool_calls, tool_call_id; task
/// and wo_eos of the release's encoder, and a developer's tools and response_format. Arguments of a
/// call may be JSON text, as servers give them, or an object. Throws ds4::Error that begins with
/// `where` for another role or task, or a value of another type.
inline ChatMessage chat_message(const PythonJson& json, const std::string& where) {
  if (json.kind != PythonJson::Kind::object) detail::refuse(where, "an object", &json);
  ChatMessage message;
  message.role = static_cast<ChatRole>(detail::number_of(detail::string_member(json, "role", where),
                                                         detail::kRoleNames, where + ".role"));
  message.content = detail::content_of(json, where);
  message.reasoning = detail::string_member(json, "reasoning_content", where);
  if (message.reasoning.empty())
    message.reasoning = detail::string_member(json, "reasoning", where);
  message.call_id = detail::string_member(json, "tool_call_id", where);
  message.task = static_cast<ChatTask>(detail::number_of(detail::string_member(json, "task", where),
                                                         detail::kTaskNames, where + ".task"));
  message.open = detail::is_true(detail::member(json, "wo_eos"));
  if (const PythonJson* const tools = detail::member(json, "tools")) {
    message.tools.functions = tool_functions(*tools, where + ".tools");
  }
  if (const PythonJson* const schema = detail::member(json, "response_format")) {
    message.tools.schema = schema->dump();
  }
  const PythonJson* const calls = detail::member(json, "tool_calls");
  if (calls == nullptr) return message;
  if (calls->kind != PythonJson::Kind::array) {
    detail::refuse(where + ".tool_calls", "an array", calls);
  }
  for (std::size_t i = 0; i < calls->items.size(); ++i) {
    const std::string place = where + ".tool_calls[" + std::to_string(i) + "]";
    const PythonJson& function = detail::object_member(calls->items[i], "function", place);
    ToolCall call{detail::string_member(calls->items[i], "id", place),
                  detail::string_member(function, "name", place + ".function"),
                  {}};
    const PythonJson* const arguments = detail::member(function, "arguments");
    if (arguments != nullptr) {
      call.arguments =
          arguments->kind == PythonJson::Kind::string ? arguments->text : arguments->dump();
    }
    message.calls.push_back(std::move(call));
  }
  return message;
}

}  // namespace ds4::inline v0_1
