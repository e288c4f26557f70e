// Grammars of JSON: any object, or what a schema describes.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/serve/byte_grammar.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/python_json.hpp>

namespace ds4::inline v0_1 {

/// A grammar, and the rule that a whole text matches.
struct JsonGrammar {
  ///@{
  /// See above.
  std::shared_ptr<const ByteGrammar> grammar;
  ByteGrammar::Rule root = 0;
  ///@}
};

namespace detail {

/// Builds the rules of JSON. Between tokens there is nothing, a blank, or a line's end with up to
/// kIndent blanks.
class JsonGrammarBuilder {
 public:
  using Rule = ByteGrammar::Rule;
  using Sequence = ByteGrammar::Sequence;

  JsonGrammarBuilder() {
    add_space();
    add_string();
    add_numbers();
    literal_ = grammar_->add_rule();
    for (const char* text : {"true", "false", "null"})
      grammar_->add(literal_, grammar_->text(text));
    boolean_ = grammar_->add_rule();
    for (const char* text : {"true", "false"}) grammar_->add(boolean_, grammar_->text(text));
    value_ = grammar_->add_rule();
    object_ = map_of(value_);
    array_ = list_of(value_, 0, std::nullopt);
    for (const Rule rule : {object_, array_, string_, number_, literal_}) {
      grammar_->add(value_, {ByteGrammar::rule(rule)});
    }
  }

  /// Any object.
  JsonGrammar any_object() && { return std::move(*this).finish(object_, "json"); }

  /// What a schema describes.
  JsonGrammar schema(const PythonJson& schema) && {
    root_schema_ = &schema;
    const Rule rule = rule_of(schema, "schema", 0);
    return std::move(*this).finish(rule, "schema");
  }

 private:
  static constexpr std::size_t kIndent = 16;
  static constexpr std::size_t kMostRules = 20'000;
  static constexpr std::size_t kMostProperties = 512;
  static constexpr std::size_t kMostItems = 256;
  static constexpr std::size_t kMostDepth = 64;

  JsonGrammar finish(Rule value, std::string_view where) && {
    const Rule root = grammar_->add_rule();
    grammar_->add(root, {ByteGrammar::rule(space_), ByteGrammar::rule(value)});
    grammar_->check(root, where);
    return {std::move(grammar_), root};
  }

  /// Texts and rules one behind the other.
  template <class... Parts>
  Sequence sequence(Parts... parts) {
    Sequence all;
    const auto add = [&](auto part) {
      if constexpr (std::is_same_v<decltype(part), Rule>) {
        all.push_back(ByteGrammar::rule(part));
      } else {
        for (const auto& element : grammar_->text(part)) all.push_back(element);
      }
    };
    (add(parts), ...);
    return all;
  }

  void add_space() {
    Rule indent = grammar_->add_rule();
    grammar_->add(indent, {});
    for (std::size_t i = 0; i < kIndent; ++i) {
      const Rule longer = grammar_->add_rule();
      grammar_->add(longer, {});
      grammar_->add(longer, sequence(std::string_view(" "), indent));
      indent = longer;
    }
    space_ = grammar_->add_rule();
    grammar_->add(space_, {});
    grammar_->add(space_, sequence(std::string_view(" ")));
    grammar_->add(space_, sequence(std::string_view("\n"), indent));
  }

  /// Characters in well-formed UTF-8, and escapes; surrogates in pairs alone.
  void add_string() {
    using Bytes = ByteGrammar::Bytes;
    ByteGrammar& g = *grammar_;
    const Rule characters = g.add_rule();
    const auto add = [&](Sequence character) {
      character.push_back(ByteGrammar::rule(characters));
      g.add(characters, std::move(character));
    };
    g.add(characters, {});
    Bytes plain;
    for (std::size_t i = 0x20; i < 0x80; ++i) plain.set(i, i != '"' && i != '\\');
    add({g.bytes(plain)});
    const auto next = g.bytes(0x80, 0xBF);
    add({g.bytes(0xC2, 0xDF), next});
    add({g.bytes(0xE0, 0xE0), g.bytes(0xA0, 0xBF), next});
    add({g.bytes(0xE1, 0xEC), next, next});
    add({g.bytes(0xED, 0xED), g.bytes(0x80, 0x9F), next});
    add({g.bytes(0xEE, 0xEF), next, next});
    add({g.bytes(0xF0, 0xF0), g.bytes(0x90, 0xBF), next, next});
    add({g.bytes(0xF1, 0xF3), next, next, next});
    add({g.bytes(0xF4, 0xF4), g.bytes(0x80, 0x8F), next, next});
    Bytes escapes;
    for (const char c : std::string_view("\"\\/bfnrt")) escapes.set(static_cast<unsigned char>(c));
    const auto backslash = g.bytes('\\', '\\');
    add({backslash, g.bytes(escapes)});
    Bytes hex;
    for (const char c : std::string_view("0123456789abcdefABCDEF")) {
      hex.set(static_cast<unsigned char>(c));
    }
    Bytes first = hex;
    first.reset('d').reset('D');
    Bytes second;
    for (unsigned char c = '0'; c <= '7'; ++c) second.set(c);
    Bytes d;
    d.set('d').set('D');
    const auto u = g.bytes('u', 'u');
    const auto digit = g.bytes(hex);
    add({backslash, u, g.bytes(first), digit, digit, digit});
    add({backslash, u, g.bytes(d), g.bytes(second), digit, digit});
    Bytes high;
    for (const char c : std::string_view("89abAB")) high.set(static_cast<unsigned char>(c));
    Bytes low;
    for (const char c : std::string_view("cdefCDEF")) low.set(static_cast<unsigned char>(c));
    add({backslash, u, g.bytes(d), g.bytes(high), digit, digit, backslash, u, g.bytes(d),
         g.bytes(low), digit, digit});
    string_ = g.add_rule();
    g.add(string_, sequence(std::string_view("\""), characters, std::string_view("\"")));
  }

  void add_numbers() {
    ByteGrammar& g = *grammar_;
    const auto digit = g.bytes('0', '9');
    const Rule digits = g.add_rule();  // maybe none
    g.add(digits, {});
    g.add(digits, {digit, ByteGrammar::rule(digits)});
    const Rule whole = g.add_rule();
    g.add(whole, sequence(std::string_view("0")));
    g.add(whole, {g.bytes('1', '9'), ByteGrammar::rule(digits)});
    integer_ = g.add_rule();
    g.add(integer_, {ByteGrammar::rule(whole)});
    g.add(integer_, sequence(std::string_view("-"), whole));
    const Rule fraction = g.add_rule();
    g.add(fraction, {});
    g.add(fraction, {g.bytes('.', '.'), digit, ByteGrammar::rule(digits)});
    ByteGrammar::Bytes e;
    e.set('e').set('E');
    ByteGrammar::Bytes sign;
    sign.set('+').set('-');
    const Rule exponent = g.add_rule();
    g.add(exponent, {});
    g.add(exponent, {g.bytes(e), digit, ByteGrammar::rule(digits)});
    g.add(exponent, {g.bytes(e), g.bytes(sign), digit, ByteGrammar::rule(digits)});
    number_ = g.add_rule();
    g.add(number_,
          {ByteGrammar::rule(integer_), ByteGrammar::rule(fraction), ByteGrammar::rule(exponent)});
  }

  /// An object of any names with such values.
  Rule map_of(Rule value) {
    ByteGrammar& g = *grammar_;
    const Rule member = g.add_rule();
    g.add(member, sequence(string_, std::string_view(":"), space_, value));
    const Rule more = g.add_rule();
    g.add(more, {});
    g.add(more, sequence(std::string_view(","), space_, member, space_, more));
    const Rule map = g.add_rule();
    g.add(map, sequence(std::string_view("{"), space_, std::string_view("}")));
    g.add(map,
          sequence(std::string_view("{"), space_, member, space_, more, std::string_view("}")));
    return map;
  }

  /// An array of such items.
  Rule list_of(Rule item, std::size_t least, std::optional<std::size_t> most) {
    ByteGrammar& g = *grammar_;
    if (most && *most < least) return g.add_rule();  // nothing fits
    // rest: what follows an item.
    Rule rest = g.add_rule();
    g.add(rest, {});
    if (!most) g.add(rest, sequence(std::string_view(","), space_, item, space_, rest));
    // From the last item that is counted to the second.
    for (std::size_t n = most ? *most : std::max<std::size_t>(least, 1); n > 1; --n) {
      const Rule longer = g.add_rule();
      if (n > least) g.add(longer, {});
      g.add(longer, sequence(std::string_view(","), space_, item, space_, rest));
      rest = longer;
    }
    const Rule list = g.add_rule();
    if (least == 0) g.add(list, sequence(std::string_view("["), space_, std::string_view("]")));
    if (!most || *most > 0) {
      g.add(list,
            sequence(std::string_view("["), space_, item, space_, rest, std::string_view("]")));
    }
    return list;
  }

  [[noreturn]] static void refuse_schema(const std::string& where, const std::string& what) {
    throw Error(where, what);
  }
  static std::optional<std::size_t> count_of(const PythonJson& schema, std::string_view name,
                                             const std::string& where) {
    const PythonJson* const value = member(schema, name);
    if (value == nullptr) return std::nullopt;
    std::size_t count = 0;
    const char* const end = value->text.data() + value->text.size();
    const auto parsed = std::from_chars(value->text.data(), end, count);
    if (parsed.ec != std::errc() || parsed.ptr != end || count > kMostItems) {
      refuse_schema(where + "." + std::string(name),
                    "expected a number from 0 to " + std::to_string(kMostItems));
    }
    return count;
  }

  Rule rule_of(const PythonJson& schema, const std::string& where, std::size_t depth) {
    if (grammar_->size() > kMostRules || depth > kMostDepth) {
      refuse_schema("schema", "expected a smaller one");
    }
    if (is_true(&schema)) return value_;
    if (schema.kind != PythonJson::Kind::object) {
      refuse_schema(where, "expected an object, found " + printable(schema.dump()));
    }
    check_keywords(schema, where);
    const Rule rule = grammar_->add_rule();
    const auto also = [&](Rule other) { grammar_->add(rule, {ByteGrammar::rule(other)}); };
    if (const PythonJson* const reference = member(schema, "$ref")) {
      also(rule_of_reference(reference->text, where, depth));
    } else if (const PythonJson* const constant = find_even_null(schema, "const")) {
      grammar_->add(rule, grammar_->text(constant->dump()));
    } else if (const PythonJson* const values = member(schema, "enum")) {
      if (values->kind != PythonJson::Kind::array || values->items.empty()) {
        refuse_schema(where + ".enum", "expected values");
      }
      for (const PythonJson& value : values->items) {
        grammar_->add(rule, grammar_->text(value.dump()));
      }
    } else if (const PythonJson* const all = member(schema, "allOf")) {
      if (all->items.size() != 1) refuse_schema(where + ".allOf", "expected one schema");
      also(rule_of(all->items[0], where + ".allOf[0]", depth + 1));
    } else if (const PythonJson* const any = one_of(schema, {"anyOf", "oneOf"})) {
      for (const PythonJson& choice : any->items)
        also(rule_of(choice, where + ".anyOf", depth + 1));
    } else {
      const PythonJson* const type = member(schema, "type");
      if (type == nullptr) {
        if (member(schema, "properties") != nullptr) {
          also(object_of(schema, where, depth));
        } else if (member(schema, "items") != nullptr) {
          also(array_of(schema, where, depth));
        } else {
          also(value_);
        }
      } else if (type->kind == PythonJson::Kind::array) {
        for (const PythonJson& name : type->items) also(typed(schema, name.text, where, depth));
      } else {
        also(typed(schema, type->text, where, depth));
      }
    }
    return rule;
  }

  Rule typed(const PythonJson& schema, const std::string& type, const std::string& where,
             std::size_t depth) {
    if (type == "object") return object_of(schema, where, depth);
    if (type == "array") return array_of(schema, where, depth);
    if (type == "string") return string_;
    if (type == "number") return number_;
    if (type == "integer") return integer_;
    if (type == "boolean") return boolean_;
    if (type == "null") {
      const Rule null = grammar_->add_rule();
      grammar_->add(null, grammar_->text("null"));
      return null;
    }
    refuse_schema(where + ".type", "expected a type, found " + in_quotes(type));
  }

  Rule array_of(const PythonJson& schema, const std::string& where, std::size_t depth) {
    const PythonJson* const items = member(schema, "items");
    const Rule item = items == nullptr ? value_ : rule_of(*items, where + ".items", depth + 1);
    return list_of(item, count_of(schema, "minItems", where).value_or(0),
                   count_of(schema, "maxItems", where));
  }

  /// The properties in their order, those that are not required maybe left out, and no others.
  Rule object_of(const PythonJson& schema, const std::string& where, std::size_t depth) {
    const PythonJson* const properties = member(schema, "properties");
    const PythonJson* const others = member(schema, "additionalProperties");
    std::vector<std::string> required;
    if (const PythonJson* const names = member(schema, "required")) {
      for (const PythonJson& name : names->items) required.push_back(name.text);
    }
    const std::size_t count = properties == nullptr ? 0 : properties->names.size();
    if (properties != nullptr && properties->kind != PythonJson::Kind::object) {
      refuse_schema(where + ".properties", "expected an object");
    }
    if (count > kMostProperties) {
      refuse_schema(where + ".properties", "found " + std::to_string(count) +
                                               ", expected at most " +
                                               std::to_string(kMostProperties));
    }
    for (const std::string& name : required) {
      if (count == 0 || std::ranges::count(properties->names, name) == 0) {
        refuse_schema(where + ".required",
                      "found " + in_quotes(name) + ", expected one of the properties");
      }
    }
    if (count == 0) {
      const bool closed =
          others != nullptr && others->text == "false" && others->kind == PythonJson::Kind::scalar;
      if (closed) {
        const Rule empty = grammar_->add_rule();
        grammar_->add(empty, grammar_->text("{}"));
        return empty;
      }
      if (others == nullptr || is_true(others)) return object_;
      return map_of(rule_of(*others, where + ".additionalProperties", depth + 1));
    }
    // What follows property i, where one has come in front of it and where none has.
    std::array<Rule, 2> rest{grammar_->add_rule(), grammar_->add_rule()};
    for (const Rule end : rest) grammar_->add(end, sequence(std::string_view("}")));
    for (std::size_t i = count; i-- > 0;) {
      const std::string& name = properties->names[i];
      const Rule value =
          rule_of(properties->items[i], where + "." + printable(name, 40), depth + 1);
      std::string key = "\"";
      append_json_characters(key, name);
      key += "\":";
      std::array<Rule, 2> from{grammar_->add_rule(), grammar_->add_rule()};
      grammar_->add(from[0], sequence(std::string_view(key), space_, value, space_, rest[1]));
      grammar_->add(from[1], sequence(std::string_view(","), space_, std::string_view(key), space_,
                                      value, space_, rest[1]));
      if (std::ranges::count(required, name) == 0) {
        for (std::size_t k = 0; k < 2; ++k) grammar_->add(from[k], sequence(rest[k]));
      }
      rest = from;
    }
    const Rule object = grammar_->add_rule();
    grammar_->add(object, sequence(std::string_view("{"), space_, rest[0]));
    return object;
  }

  Rule rule_of_reference(const std::string& reference, const std::string& where,
                         std::size_t depth) {
    const auto known = references_.find(reference);
    if (known != references_.end()) return known->second;
    const PythonJson* target = root_schema_;
    if (!reference.starts_with("#")) target = nullptr;
    std::string_view rest =
        std::string_view(reference).substr(std::min<std::size_t>(reference.size(), 1));
    while (target != nullptr && !rest.empty()) {
      if (rest[0] != '/') {
        target = nullptr;
        break;
      }
      rest.remove_prefix(1);
      const std::string_view name = rest.substr(0, rest.find('/'));
      rest.remove_prefix(name.size());
      target = member(*target, name);
    }
    if (target == nullptr) {
      refuse_schema(where + ".$ref",
                    "found " + in_quotes(reference) + ", expected a place in this schema");
    }
    const Rule rule = grammar_->add_rule();
    references_[reference] = rule;
    const Rule body = rule_of(*target, where, depth + 1);
    grammar_->add(rule, {ByteGrammar::rule(body)});
    return rule;
  }

  /// A member that may be null.
  static const PythonJson* find_even_null(const PythonJson& object, std::string_view name) {
    const auto at = std::ranges::find(object.names, name);
    return at == object.names.end()
               ? nullptr
               : &object.items[static_cast<std::size_t>(at - object.names.begin())];
  }
  static const PythonJson* one_of(const PythonJson& object,
                                  std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names) {
      if (const PythonJson* const value = member(object, name)) return value;
    }
    return nullptr;
  }
  /// Words that constrain and are not known here are refused.
  static void check_keywords(const PythonJson& schema, const std::string& where) {
    constexpr std::array<std::string_view, 26> kKnown{
        "type",        "properties", "required",   "additionalProperties",
        "items",       "enum",       "const",      "anyOf",
        "oneOf",       "allOf",      "$ref",       "$defs",
        "definitions", "minItems",   "maxItems",   "title",
        "description", "default",    "examples",   "$schema",
        "$id",         "$comment",   "deprecated", "readOnly",
        "writeOnly",   "strict"};
    for (const std::string& name : schema.names) {
      if (std::ranges::find(kKnown, name) == kKnown.end()) {
        refuse_schema(where, "found " + in_quotes(name) + ", which is not supported");
      }
    }
  }

  std::shared_ptr<ByteGrammar> grammar_ = std::make_shared<ByteGrammar>();
  const PythonJson* root_schema_ = nullptr;
  std::map<std::string, Rule> references_;
  Rule space_ = 0;
  Rule string_ = 0;
  Rule integer_ = 0;
  Rule number_ = 0;
  Rule literal_ = 0;
  Rule boolean_ = 0;
  Rule value_ = 0;
  Rule object_ = 0;
  Rule array_ = 0;
};

}  // namespace detail

/// Any JSON object.
inline JsonGrammar json_object_grammar() { return detail::JsonGrammarBuilder().any_object(); }

/// The JSON values that a schema describes, written in one way: properties in the schema's order
/// and no others, constants as Python writes them. Known are type, properties, required,
/// additionalProperties, items, minItems, maxItems, enum, const, anyOf and oneOf (which allow the
/// same), allOf of one, $ref within the schema, and words that only describe. Throws Error that
/// names the place of any other word, and for a schema that nothing fits.
inline JsonGrammar json_schema_grammar(const std::string& schema) {
  return detail::JsonGrammarBuilder().schema(PythonJson::parse(schema));
}

}  // namespace ds4::inline v0_1
