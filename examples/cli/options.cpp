#include "cli/options.hpp"

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include <ds4/core/messages.hpp>
#include <ds4/core/processors.hpp>

namespace ds4::cli {

std::size_t default_threads() {
  static const std::size_t threads = usable_processors();
  return threads;
}

template <class T>
Check expect(std::string what, std::function<bool(T)> holds) {
  return [what = std::move(what), holds = std::move(holds)](const std::string& text) {
    T value{};
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, value);
    if (parsed.ec == std::errc{} && parsed.ptr == end && holds(value)) return std::string();
    return "expected " + what + ", found " + detail::in_quotes(text);
  };
}
template Check expect(std::string, std::function<bool(std::int32_t)>);
template Check expect(std::string, std::function<bool(std::uint64_t)>);
template Check expect(std::string, std::function<bool(float)>);
template Check expect(std::string, std::function<bool(double)>);

Check expect_count(std::int32_t least, std::int32_t most) {
  return expect<std::int32_t>(
      "a whole number from " + std::to_string(least) + " to " + std::to_string(most),
      [=](std::int32_t value) { return value >= least && value <= most; });
}

Check expect_seed() {
  return expect<std::uint64_t>("a whole number below 2^64", [](std::uint64_t) { return true; });
}

Check expect_path() {
  return [](const std::string& text) {
    return text.empty() ? "expected a path, found an empty text" : "";
  };
}

void run_with_tokenizer(Verb& verb, void (*run)(const std::string&)) {
  auto tokenizer = std::make_shared<std::string>();
  verb.add_option("--tokenizer", *tokenizer, "tokenizer.json, or the folder that holds it")
      .required()
      .check(expect_path());
  verb.callback([tokenizer, run] { run(*tokenizer); });
}

}  // namespace ds4::cli
