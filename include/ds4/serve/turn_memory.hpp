// Generated turns by what they say: clients send them back as texts, of which other ids would be
// made than those that the model has seen.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <list>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/serve/api_json.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/chat_message.hpp>
#include <ds4/text/python_json.hpp>

namespace ds4::inline v0_1 {

/// Remembers the ids of turns, those used last; with a file also across runs. One thread at a time.
class TurnMemory {
 public:
  /// Reads the file, if there is one; an empty name: none. Lines of it that are no turns are left
  /// out. Throws ds4::Error if it cannot be written.
  explicit TurnMemory(std::filesystem::path file = {}, std::size_t most = 4096)
      : file_(std::move(file)), most_(std::max<std::size_t>(most, 1)) {
    if (file_.empty()) return;
    read();
    rewrite();
  }

  /// Remembers a turn with its ids, answer_ids and reasoning_ids.
  void remember(const ChatMessage& turn) {
    if (turn.answer_ids.empty()) return;
    if (!keep(turn) || file_.empty()) return;
    if (++lines_ > 2 * most_) return rewrite();
    out_ << line_of(turn) << '\n' << std::flush;
  }

  /// Gives the answers of a chat the ids that they were generated as, where they say the same: the
  /// same content and calls, whose arguments may be written otherwise, and the reasoning's where
  /// that is the same.
  void recall(std::span<ChatMessage> messages) {
    for (ChatMessage& message : messages) {
      if (message.role != ChatRole::assistant || message.open) continue;
      const auto found = by_key_.find(key_of(message));
      if (found == by_key_.end()) continue;
      turns_.splice(turns_.begin(), turns_, found->second);
      const ChatMessage& turn = turns_.front();
      message.answer_ids = turn.answer_ids;
      if (message.reasoning == turn.reasoning) message.reasoning_ids = turn.reasoning_ids;
    }
  }

  /// How many there are.
  std::size_t size() const { return turns_.size(); }

 private:
  static std::string key_of(const ChatMessage& message) {
    std::string key = message.content;
    for (const ToolCall& call : message.calls) {
      key += '\0' + call.name + '\0';
      try {
        key += PythonJson::parse(call.arguments).dump();
      } catch (const Error&) {
        key += call.arguments;
      }
    }
    return key;
  }
  /// False if it is known already, with the same ids.
  bool keep(const ChatMessage& turn) {
    const std::string key = key_of(turn);
    const auto found = by_key_.find(key);
    if (found != by_key_.end()) {
      const ChatMessage& known = *found->second;
      if (known.answer_ids == turn.answer_ids && known.reasoning_ids == turn.reasoning_ids) {
        return false;
      }
      turns_.erase(found->second);
      by_key_.erase(found);
    }
    turns_.push_front(turn);
    by_key_[key] = turns_.begin();
    if (turns_.size() > most_) {
      by_key_.erase(key_of(turns_.back()));
      turns_.pop_back();
    }
    return true;
  }

  static std::string line_of(const ChatMessage& turn) {
    using namespace detail;
    const auto ids_json = [](const std::vector<std::int32_t>& ids) {
      std::vector<std::string> numbers;
      numbers.reserve(ids.size());
      for (const std::int32_t id : ids) numbers.push_back(json_number(id));
      return json_array(numbers);
    };
    std::vector<std::string> calls;
    calls.reserve(turn.calls.size());
    for (const ToolCall& call : turn.calls) {
      calls.push_back(
          json_object({{"function", json_object({{"name", json_text(call.name)},
                                                 {"arguments", json_text(call.arguments)}})}}));
    }
    return json_object({{"role", json_text("assistant")},
                        {"content", json_text(turn.content)},
                        {"reasoning_content", json_text(turn.reasoning)},
                        {"tool_calls", json_array(calls)},
                        {"reasoning_ids", ids_json(turn.reasoning_ids)},
                        {"answer_ids", ids_json(turn.answer_ids)}});
  }
  static std::vector<std::int32_t> ids_of(const PythonJson& json, std::string_view name) {
    std::vector<std::int32_t> ids;
    const PythonJson* const list = detail::member(json, name);
    if (list == nullptr) return ids;
    for (const PythonJson& item : list->items) {
      std::int32_t id = -1;
      const auto parsed =
          std::from_chars(item.text.data(), item.text.data() + item.text.size(), id);
      if (parsed.ec != std::errc() || id < 0) throw Error("turn", "expected ids, found others");
      ids.push_back(id);
    }
    return ids;
  }
  void read() {
    std::ifstream in(file_, std::ios::binary);
    for (std::string line; std::getline(in, line);) {
      try {
        const PythonJson json = PythonJson::parse(line);
        ChatMessage turn = chat_message(json, "turn");
        turn.reasoning_ids = ids_of(json, "reasoning_ids");
        turn.answer_ids = ids_of(json, "answer_ids");
        if (!turn.answer_ids.empty()) keep(turn);
      } catch (const Error&) {  // NOLINT(bugprone-empty-catch): cut off, or another's
      }
    }
  }
  /// The file with what is remembered, and open for more.
  void rewrite() {
    std::string text;
    for (auto turn = turns_.rbegin(); turn != turns_.rend(); ++turn) text += line_of(*turn) + '\n';
    out_.close();
    NewFile file(file_);
    file.write_at(0, std::as_bytes(std::span(text)));
    file.finish();
    lines_ = turns_.size();
    out_.open(file_, std::ios::binary | std::ios::app);
  }

  std::filesystem::path file_;
  std::size_t most_;
  std::list<ChatMessage> turns_;  // those used last in front
  std::unordered_map<std::string, std::list<ChatMessage>::iterator> by_key_;
  std::size_t lines_ = 0;  // of the file
  std::ofstream out_;
};

}  // namespace ds4::inline v0_1
