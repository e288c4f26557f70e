// Elements of an XML text, for tests of what the program draws.
#pragma once

#include <cctype>
#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ds4::test {

struct XmlElement {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;    ///< directly inside it
  std::size_t parent;  ///< its number among all elements; the root is its own
};

/// The elements of a document in the order of their start tags. Throws std::runtime_error for what
/// is not well-formed; there may be no declarations, comments and sections of CDATA.
class XmlParser {
 public:
  static std::vector<XmlElement> parse(std::string_view text) { return XmlParser(text).document(); }

 private:
  explicit XmlParser(std::string_view text) : rest_(text) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("expected " + what + ", found \"" + std::string(rest_.substr(0, 40)) +
                             "\"");
  }
  void expect(std::string_view token) {
    if (!rest_.starts_with(token)) fail(std::string(token));
    rest_.remove_prefix(token.size());
  }
  void skip_space() {
    while (!rest_.empty() && std::isspace(static_cast<unsigned char>(rest_[0])) != 0) {
      rest_.remove_prefix(1);
    }
  }
  std::string name() {
    std::size_t length = 0;
    while (length < rest_.size() &&
           (std::isalnum(static_cast<unsigned char>(rest_[length])) != 0 ||
            std::string_view("-_:").find(rest_[length]) != std::string_view::npos)) {
      ++length;
    }
    if (length == 0) fail("a name");
    const std::string name(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return name;
  }
  /// Characters up to one of `ends`, with references resolved.
  std::string characters(std::string_view ends) {
    static constexpr std::pair<std::string_view, char> kReferences[] = {
        {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    std::string out;
    while (!rest_.empty() && ends.find(rest_[0]) == std::string_view::npos) {
      const auto c = static_cast<unsigned char>(rest_[0]);
      if (c < 0x20 && c != '\n' && c != '\t') fail("a character of XML");
      if (c == '<') fail("no <");
      if (c != '&') {
        out += rest_[0];
        rest_.remove_prefix(1);
        continue;
      }
      bool known = false;
      for (const auto& [reference, character] : kReferences) {
        if (!rest_.starts_with(reference)) continue;
        out += character;
        rest_.remove_prefix(reference.size());
        known = true;
        break;
      }
      if (!known) fail("a reference");
    }
    return out;
  }

  std::vector<XmlElement> document() {
    skip_space();
    std::vector<std::size_t> open;
    do {
      expect("<");
      if (rest_.starts_with("/")) {
        expect("/");
        if (open.empty() || name() != elements_[open.back()].name) fail("the end of what is open");
        skip_space();
        expect(">");
        open.pop_back();
      } else {
        const std::size_t number = elements_.size();
        elements_.push_back({name(), {}, {}, open.empty() ? number : open.back()});
        for (skip_space(); !rest_.starts_with("/") && !rest_.starts_with(">"); skip_space()) {
          const std::string key = name();
          expect("=\"");
          if (!elements_[number].attributes.emplace(key, characters("\"")).second) {
            fail("each attribute once");
          }
          expect("\"");
        }
        if (rest_.starts_with("/")) {
          expect("/>");
        } else {
          expect(">");
          open.push_back(number);
        }
      }
      if (!open.empty()) elements_[open.back()].text += characters("<");
    } while (!open.empty());
    skip_space();
    if (!rest_.empty()) fail("the end");
    return std::move(elements_);
  }

  std::string_view rest_;
  std::vector<XmlElement> elements_;
};

}  // namespace ds4::test
