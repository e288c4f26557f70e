#include "cli/json.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include <nlohmann/json.hpp>

namespace ds4::cli {

/// A value as nlohmann's, which writes it.
struct JsonText {
  static nlohmann::ordered_json of(const Json& json) {
    return std::visit(
        [](const auto& value) -> nlohmann::ordered_json {
          using Value = std::remove_cvref_t<decltype(value)>;
          if constexpr (std::is_same_v<Value, Json::Elements>) {
            auto elements = nlohmann::ordered_json::array();
            for (const Json& element : value) elements.push_back(of(element));
            return elements;
          } else if constexpr (std::is_same_v<Value, Json::Members>) {
            auto members = nlohmann::ordered_json::object();
            for (const auto& [name, member] : value) members[name] = of(member);
            return members;
          } else {
            return value;
          }
        },
        json.value_);
  }
};

namespace {

auto find(auto& members, const std::string& name) {
  return std::ranges::find(members, name, [](const auto& member) { return member.first; });
}

}  // namespace

Json::Json() = default;
Json::Json(bool value) : value_(value) {}
Json::Json(std::int32_t value) : value_(value) {}
Json::Json(std::size_t value) : value_(value) {}
Json::Json(double value) : value_(value) {}
Json::Json(const char* value) : value_(std::string(value)) {}
Json::Json(std::string value) : value_(std::move(value)) {}
Json::Json(std::initializer_list<std::pair<const char*, Json>> members)
    : value_(Members(members.begin(), members.end())) {}

Json Json::array() {
  Json json;
  json.value_ = Elements();
  return json;
}

Json Json::object() {
  Json json;
  json.value_ = Members();
  return json;
}

Json::Json(const Json&) = default;
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(const Json&) = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

Json& Json::operator[](const std::string& name) {
  if (std::holds_alternative<std::nullptr_t>(value_)) value_ = Members();
  Members& members = std::get<Members>(value_);
  const auto found = find(members, name);
  return found != members.end() ? found->second : members.emplace_back(name, Json()).second;
}

const Json& Json::operator[](const std::string& name) const {
  return find(members(), name)->second;
}

bool Json::contains(const std::string& name) const {
  return find(members(), name) != members().end();
}

const Json::Members& Json::members() const { return std::get<Members>(value_); }

void Json::push_back(Json element) { std::get<Elements>(value_).push_back(std::move(element)); }

const Json::Elements& Json::elements() const { return std::get<Elements>(value_); }

bool Json::empty() const {
  const auto* const members = std::get_if<Members>(&value_);
  return members != nullptr ? members->empty() : elements().empty();
}

std::size_t Json::count() const { return std::get<std::size_t>(value_); }

double Json::number() const {
  const auto* const whole = std::get_if<std::size_t>(&value_);
  return whole != nullptr ? static_cast<double>(*whole) : std::get<double>(value_);
}

const std::string& Json::text() const { return std::get<std::string>(value_); }

std::string Json::dump() const { return JsonText::of(*this).dump(); }

std::string Json::dump_lines() const { return JsonText::of(*this).dump(1); }

}  // namespace ds4::cli
