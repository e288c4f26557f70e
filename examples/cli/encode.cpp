// ds4 encode and ds4 parse: chats to token ids, and generated turns to their parts, as JSON.
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/python_json.hpp>
#include <ds4/text/tokenizer.hpp>
#include <ds4/text/turn_reader.hpp>

#include "cli/io.hpp"
#include "cli/json.hpp"
#include "cli/options.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

using ds4::detail::member;

/// One of the names that a member may have; the first where there is none.
template <std::size_t N>
std::size_t choice(const PythonJson& object, std::string_view name, const std::string& where,
                   const std::array<std::string_view, N>& names) {
  if (member(object, name) == nullptr) return 0;
  return ds4::detail::number_of(ds4::detail::string_member(object, name, where), names,
                                where + "." + std::string(name));
}

/// The ids of a chat; `where` begins the errors.
std::vector<std::int32_t> encode_chat(const ChatEncoding& encoding, const PythonJson& request,
                                      const std::string& where) {
  constexpr std::array<std::string_view, 3> kEfforts{"low", "high", "max"};
  constexpr std::array<std::string_view, 2> kProfiles{"release", "preview"};
  const PythonJson* const list = member(request, "messages");
  if (list == nullptr || list->kind != PythonJson::Kind::array) {
    ds4::detail::refuse(where + ".messages", "an array", list);
  }
  std::vector<ChatMessage> messages;
  for (std::size_t i = 0; i < list->items.size(); ++i) {
    messages.push_back(
        chat_message(list->items[i], where + ".messages[" + std::to_string(i) + "]"));
  }
  ChatOptions options;
  options.thinking = ds4::detail::is_true(member(request, "thinking"));
  options.effort = static_cast<ChatEffort>(choice(request, "effort", where, kEfforts));
  const bool preview = choice(request, "profile", where, kProfiles) > 0;
  options.profile = preview ? EffortProfile::preview : EffortProfile::release;
  const PythonJson* const drop = member(request, "drop_thinking");
  options.keep_reasoning = drop != nullptr && !ds4::detail::is_true(drop);
  if (const PythonJson* const tools = member(request, "tools")) {
    options.tools.functions = tool_functions(*tools, where + ".tools");
  }
  if (const PythonJson* const schema = member(request, "response_format")) {
    options.tools.schema = schema->dump();
  }
  options.tools.json_object = ds4::detail::is_true(member(request, "json_object"));
  if (const PythonJson* const tool_choice = member(request, "tool_choice")) {
    constexpr std::array<std::string_view, 3> kChoices{"auto", "none", "required"};
    if (const PythonJson* const named = member(*tool_choice, "function")) {
      const std::string name = ds4::detail::string_member(*named, "name", where + ".tool_choice");
      std::erase_if(options.tools.functions, [&](const std::string& function) {
        const PythonJson parsed = PythonJson::parse(function);
        const PythonJson* const own = member(parsed, "name");
        return own == nullptr || own->text != name;
      });
      options.call_required = true;
    } else {
      const std::size_t chosen = choice(request, "tool_choice", where, kChoices);
      if (chosen == 1) options.tools.functions.clear();
      options.call_required = chosen == 2;
    }
  }
  return encoding.encode(messages, options);
}

/// A turn as its parts.
Json parse_turn(const Tokenizer& tokenizer, const ChatEncoding& encoding, const PythonJson& turn,
                const std::string& where) {
  std::vector<std::int32_t> ids;
  if (const PythonJson* const list = member(turn, "ids")) {
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      const std::string place = where + ".ids[" + std::to_string(i) + "]";
      std::int32_t id = -1;
      const std::string& text = list->items[i].text;
      const auto parsed = std::from_chars(text.data(), text.data() + text.size(), id);
      if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || id < 0) {
        ds4::detail::refuse(place, "a token id", &list->items[i]);
      }
      ids.push_back(id);
    }
  } else {
    ids = tokenizer.encode(ds4::detail::string_member(turn, "text", where));
  }
  TurnOptions options;
  options.thinking = ds4::detail::is_true(member(turn, "thinking"));
  const PythonJson* const tools = member(turn, "tools");
  options.tools = tools == nullptr || ds4::detail::is_true(tools);
  options.in_calls = ds4::detail::is_true(member(turn, "required"));
  if (const PythonJson* const prefix = member(turn, "prefix")) {
    const bool answers = !ds4::detail::string_member(*prefix, "content", where + ".prefix").empty();
    options.thinking = options.thinking && !answers;
  }
  if (const PythonJson* const stop = member(turn, "stop")) {
    for (const PythonJson& text : stop->items) options.stop.push_back(text.text);
  }
  TurnReader reader(encoding, options);
  for (const std::int32_t id : ids) reader.push(id);
  reader.finish();

  const ChatMessage& message = reader.message();
  Json calls = Json::array();
  for (const ToolCall& call : message.calls) {
    calls.push_back({{"name", call.name}, {"arguments", call.arguments}});
  }
  const PythonJson* const finish = member(turn, "finish");
  const bool cut = finish != nullptr && finish->text == "length";
  return {{"reasoning", message.reasoning},
          {"content", message.content},
          {"tool_calls", calls},
          {"finish_reason", cut                             ? "length"
                            : reader.end() == TurnEnd::stop ? "stop"
                                                            : "tool_calls"}};
}

/// Calls f(tokenizer, encoding, element, place) for the elements of an array on standard input and
/// prints what it returns, or the error that an element is, as an array.
template <class F>
void for_each_input(const std::string& tokenizer_path, F&& f) {
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_path);
  const ChatEncoding encoding(tokenizer);
  const PythonJson list = PythonJson::parse(read_input());
  if (list.kind != PythonJson::Kind::array) {
    throw Error("standard input", "expected an array, found another value");
  }
  Json out = Json::array();
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    try {
      out.push_back(f(tokenizer, encoding, list.items[i], "[" + std::to_string(i) + "]"));
    } catch (const Error& error) {
      out.push_back({{"error", error.what()}});
    }
  }
  print(out.dump() + "\n");
}

void encode(const std::string& tokenizer_path) {
  for_each_input(tokenizer_path,
                 [](const Tokenizer& tokenizer, const ChatEncoding& encoding,
                    const PythonJson& request, const std::string& where) -> Json {
                   const auto ids = encode_chat(encoding, request, where);
                   return {{"prompt", tokenizer.decode(ids)}, {"ids", ids}};
                 });
}

void parse(const std::string& tokenizer_path) { for_each_input(tokenizer_path, parse_turn); }

const VerbRegistration kEncode(
    62, "encode", "JSON array of chats on standard input to an array of their prompts and ids",
    [](Verb& verb) { run_with_tokenizer(verb, encode); });

const VerbRegistration kParse(
    64, "parse",
    "JSON array of generated turns on standard input to an array of their reasoning, content and "
    "calls",
    [](Verb& verb) { run_with_tokenizer(verb, parse); });

}  // namespace

}  // namespace ds4::cli
