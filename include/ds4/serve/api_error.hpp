// What a server answers a request that it refuses with, in OpenAI's form.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/serve/api_json.hpp>

namespace ds4::inline v0_1 {

/// A request that is refused. what() is the message of the answer behind "ds4: request: ".
class ApiError : public Error {
 public:
  /// The HTTP status, the message for the client, the member that is at fault and a code for
  /// programs; the last two may be empty.
  ApiError(int status, const std::string& message, std::string param = {}, std::string code = {})
      : Error("request", detail::printable(message, kLongest)),
        status_(status),
        message_(message.size() <= kLongest ? message : detail::printable(message, kLongest)),
        param_(std::move(param)),
        code_(std::move(code)) {}

  /// The HTTP status.
  int status() const noexcept { return status_; }

  /// {"error": {"message", "type", "param", "code"}}.
  std::string json() const {
    const bool input = status_ >= 400 && status_ < 500;
    const std::string_view type = status_ == 401   ? "authentication_error"
                                  : status_ == 429 ? "rate_limit_error"
                                  : input          ? "invalid_request_error"
                                                   : "server_error";
    using namespace detail;
    const auto text_or_null = [](const std::string& text) {
      return text.empty() ? json_null() : json_text(text);
    };
    return json_object({{"error", json_object({{"message", json_text(message_)},
                                               {"type", json_text(type)},
                                               {"param", text_or_null(param_)},
                                               {"code", text_or_null(code_)}})}});
  }

 private:
  static constexpr std::size_t kLongest = 1000;

  int status_;
  std::string message_;
  std::string param_;
  std::string code_;
};

/// What an error of the library is for a client: 400 for its input, with the code
/// context_length_exceeded for a prompt that is too long; 503 for want of memory, and 500.
inline ApiError api_error(const std::string& text, ErrorKind kind) {
  const std::string message = text.starts_with("ds4: ") ? text.substr(5) : text;
  switch (kind) {
    case ErrorKind::input:
      return {400, message};
    case ErrorKind::context:
      return {400, message, "messages", "context_length_exceeded"};
    case ErrorKind::memory:
    case ErrorKind::stopped:
      return {503, message};
    default:
      return {500, message};
  }
}

}  // namespace ds4::inline v0_1
