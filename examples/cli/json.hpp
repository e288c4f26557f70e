// JSON that verbs print. nlohmann's headers, which take seconds to compile, write it in json.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace ds4::cli {

/// A value: null, a scalar, an array or an object whose members keep their order.
class Json {
 public:
  using Elements = std::vector<Json>;
  using Members = std::vector<std::pair<std::string, Json>>;

  Json();
  Json(bool value);
  Json(std::int32_t value);
  Json(std::size_t value);
  Json(double value);
  Json(const char* value);
  Json(std::string value);
  template <class T>
  Json(const std::vector<T>& values) : value_(Elements(values.begin(), values.end())) {}
  Json(std::initializer_list<std::pair<const char*, Json>> members);
  static Json array();
  static Json object();

  Json(const Json&);
  Json(Json&&) noexcept;
  Json& operator=(const Json&);
  Json& operator=(Json&&) noexcept;
  ~Json();

  /// A member, which a null becomes an object for and an object gets if it lacks it.
  Json& operator[](const std::string& name);
  /// A member that is there.
  const Json& operator[](const std::string& name) const;
  bool contains(const std::string& name) const;
  const Members& members() const;

  void push_back(Json element);
  const Elements& elements() const;

  /// No elements or members.
  bool empty() const;

  std::size_t count() const;
  /// Of a whole number as well.
  double number() const;
  const std::string& text() const;

  /// On one line, or with members and elements on lines of their own, a space in front for each
  /// level. Throws if a text is not UTF-8.
  std::string dump() const;
  std::string dump_lines() const;

 private:
  friend struct JsonText;

  std::variant<std::nullptr_t, bool, std::int32_t, std::size_t, double, std::string, Elements,
               Members>
      value_;
};

}  // namespace ds4::cli
