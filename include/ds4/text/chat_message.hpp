// The messages of a chat, and how its next turn is asked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// Who says something: a `tool` gives the result of a call; a `latest_reminder` tells the assistant
/// something between the turns.
enum class ChatRole : std::uint8_t { system, user, assistant, developer, tool, latest_reminder };

/// A quick instruction that is to be carried out in place of an answer.
enum class ChatTask : std::uint8_t { none, action, query, authority, domain, title, read_url };

/// What an assistant asks to be run.
struct ToolCall {
  std::string id = {};    ///< by which its result is known
  std::string name = {};  ///< of the function
  /// JSON, an object by name. Text that is none counts as one argument named `arguments`.
  std::string arguments = {};
};

/// What stands in the first system message, or in a developer's own: the tools, each the JSON text
/// of a function object, as the client has it, and what form the answer is to have.
struct ChatTools {
  ///@{
  /// See above; the schema is JSON text, or empty.
  std::vector<std::string> functions = {};
  std::string schema = {};
  ///@}
  bool json_object = false;  ///< any JSON object, where there is no schema
};

/// One message of a chat, without any special token.
struct ChatMessage {
  ChatRole role = ChatRole::user;    ///< who says it
  std::string content;               ///< what is said
  std::string reasoning = {};        ///< of an assistant that thought first
  std::vector<ToolCall> calls = {};  ///< of an assistant
  std::string call_id = {};          ///< of a tool: whose result it is
  ChatTask task = ChatTask::none;    ///< what is to follow
  bool open = false;                 ///< an assistant's turn that is to go on
  ChatTools tools = {};              ///< of a developer
  ///@{
  /// Of an assistant, if known: the ids of its reasoning, and of its content and calls, as they
  /// were generated. They stand in the prompt in place of what these texts would be encoded as, so
  /// that it goes on from what the model has seen.
  std::vector<std::int32_t> reasoning_ids = {};
  std::vector<std::int32_t> answer_ids = {};
  ///@}
};

/// How hard the assistant thinks. Source: model.md 12.2.
enum class ChatEffort : std::uint8_t { low, high, max };
/// Whose texts say so: the April preview's, or those of the releases since 0731.
enum class EffortProfile : std::uint8_t { preview, release };

/// How the next turn is asked for.
struct ChatOptions {
  bool thinking = true;                            ///< the assistant reasons before it answers
  bool keep_reasoning = false;                     ///< that of earlier turns, as with tools
  ChatEffort effort = ChatEffort::low;             ///< where it thinks
  EffortProfile profile = EffortProfile::release;  ///< of the checkpoint
  ChatTools tools = {};                            ///< for the whole chat
  bool call_required = false;  ///< the turn begins with a call; not where it thinks
  /// Each answer is opened, also one that nobody has asked for, and the next one at the end of all;
  /// an open one that only thinks goes on thinking. The release does so behind a user alone; a
  /// server has to. Source: DeepSeek's own encoder.
  bool opens_answers = false;
};

}  // namespace ds4::inline v0_1
