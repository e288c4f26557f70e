// Context-free grammars over bytes, and where a text stands in one.
#pragma once

#include <algorithm>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>

namespace ds4::inline v0_1 {

/// A grammar: rules, each of which is one of several sequences of bytes and rules. No rule may
/// begin with itself. Built once, then shared by the texts that are checked against it.
class ByteGrammar {
 public:
  /// The number of a rule.
  using Rule = std::size_t;
  /// Some of the 256 bytes.
  using Bytes = std::bitset<256>;

  /// A byte out of a set, or a rule.
  struct Element {
    ///@{
    /// Whether it is a rule, and the number of that, or of the set.
    bool is_rule = false;
    std::size_t number = 0;
    ///@}
  };
  /// Elements one behind the other.
  using Sequence = std::vector<Element>;

  /// A rule without sequences so far: nothing matches it.
  Rule add_rule() {
    rules_.emplace_back();
    return rules_.size() - 1;
  }
  /// Another sequence for a rule; none of elements is the empty text.
  void add(Rule rule, Sequence sequence) { rules_[rule].push_back(std::move(sequence)); }

  ///@{
  /// Elements.
  static Element rule(Rule number) { return {true, number}; }
  Element bytes(const Bytes& set) {
    const auto at = std::ranges::find(sets_, set);
    if (at != sets_.end()) return {false, static_cast<std::size_t>(at - sets_.begin())};
    sets_.push_back(set);
    return {false, sets_.size() - 1};
  }
  Element bytes(unsigned char first, unsigned char last) {
    Bytes set;
    for (std::size_t i = first; i <= last; ++i) set.set(i);
    return bytes(set);
  }
  ///@}
  /// The bytes of a text, each as an element.
  Sequence text(std::string_view text) {
    Sequence sequence;
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      sequence.push_back(bytes(byte, byte));
    }
    return sequence;
  }

  /// How many rules there are.
  std::size_t size() const { return rules_.size(); }

  /// Throws Error at `where` if a rule begins with itself or no text matches the rule `root`.
  void check(Rule root, std::string_view where) const;

 private:
  friend class GrammarState;

  std::vector<std::vector<Sequence>> rules_;
  std::vector<Bytes> sets_;
};

/// Where a text stands in a grammar: all the ways in which it can go on. A value; copies share what
/// they have in common.
class GrammarState {
 public:
  /// In front of a text that matches the rule.
  GrammarState(std::shared_ptr<const ByteGrammar> grammar, ByteGrammar::Rule root)
      : grammar_(std::move(grammar)) {
    expand_rule(root, nullptr);
  }

  /// Takes a byte; false, with nothing that can follow, if the text cannot go on with it.
  bool push(unsigned char byte) {
    std::vector<Stack> before = std::move(stacks_);
    stacks_.clear();
    complete_ = false;
    for (const Stack& stack : before) {
      const ByteGrammar::Sequence& sequence = *stack.place.sequence;
      if (!grammar_->sets_[sequence[stack.place.next].number][byte]) continue;
      expand({stack.place.sequence, stack.place.next + 1}, stack.below);
    }
    return complete_ || !stacks_.empty();
  }
  /// Whether the text may end here.
  bool is_complete() const { return complete_; }
  /// Whether it may go on.
  bool goes_on() const { return !stacks_.empty(); }

 private:
  struct Place {
    const ByteGrammar::Sequence* sequence = nullptr;
    std::size_t next = 0;
    bool operator==(const Place&) const = default;
  };
  struct Frame {
    Place place;
    std::shared_ptr<const Frame> below;
    Frame(Place of, std::shared_ptr<const Frame> under) : place(of), below(std::move(under)) {}
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;
    ~Frame() {  // not by recursion, as texts may be nested deeply
      std::shared_ptr<const Frame> next = std::move(below);
      while (next && next.use_count() == 1) {
        next = std::exchange(const_cast<Frame&>(*next).below, nullptr);
      }
    }
  };
  struct Stack {
    Place place;  // of a byte
    std::shared_ptr<const Frame> below;
  };
  /// Ways to go on; a text that has more goes on in the first of them alone.
  static constexpr std::size_t kMost = 512;

  void expand_rule(ByteGrammar::Rule rule, const std::shared_ptr<const Frame>& below) {
    for (const ByteGrammar::Sequence& sequence : grammar_->rules_[rule]) {
      expand({&sequence, 0}, below);
    }
  }
  void expand(Place place, std::shared_ptr<const Frame> below) {
    while (place.next == place.sequence->size()) {
      if (!below) {
        complete_ = true;
        return;
      }
      place = below->place;
      below = below->below;
    }
    const ByteGrammar::Element element = (*place.sequence)[place.next];
    if (element.is_rule) {
      ++place.next;
      if (place.next < place.sequence->size()) {
        below = std::make_shared<const Frame>(place, std::move(below));
      }
      expand_rule(element.number, below);
      return;
    }
    const bool known = std::ranges::any_of(
        stacks_, [&](const Stack& stack) { return stack.place == place && stack.below == below; });
    if (!known && stacks_.size() < kMost) stacks_.push_back({place, std::move(below)});
  }

  std::shared_ptr<const ByteGrammar> grammar_;
  std::vector<Stack> stacks_;
  bool complete_ = false;
};

inline void ByteGrammar::check(Rule root, std::string_view where) const {
  // What can be empty, and what matches some text: each grows until nothing is new.
  std::vector<bool> empty(size());
  std::vector<bool> productive(size());
  for (bool grows = true; grows;) {
    grows = false;
    for (Rule r = 0; r < size(); ++r) {
      for (const Sequence& sequence : rules_[r]) {
        const auto all = [&](const std::vector<bool>& known, bool bytes) {
          return std::ranges::all_of(sequence, [&](const Element& element) {
            return element.is_rule ? static_cast<bool>(known[element.number]) : bytes;
          });
        };
        if (!empty[r] && all(empty, false)) grows = empty[r] = true;
        if (!productive[r] && all(productive, true)) grows = productive[r] = true;
      }
    }
  }
  if (!productive[root]) throw Error(where, "expected one that some value fits, found none");
  // Rules by what they begin with, without recursion: 1 is on the way, 2 is done.
  std::vector<std::vector<Rule>> begins(size());
  for (Rule r = 0; r < size(); ++r) {
    for (const Sequence& sequence : rules_[r]) {
      for (const Element& element : sequence) {
        if (!element.is_rule) break;
        begins[r].push_back(element.number);
        if (!empty[element.number]) break;
      }
    }
  }
  std::vector<std::uint8_t> seen(size());
  for (Rule first = 0; first < size(); ++first) {
    if (seen[first] > 0) continue;
    std::vector<std::pair<Rule, std::size_t>> way{{first, 0}};
    seen[first] = 1;
    while (!way.empty()) {
      auto& [at, next] = way.back();
      if (next == begins[at].size()) {
        seen[at] = 2;
        way.pop_back();
        continue;
      }
      const Rule child = begins[at][next++];
      if (seen[child] == 1) {
        throw Error(where, "expected references that lead to something, found a circle");
      }
      if (seen[child] > 0) continue;
      seen[child] = 1;
      way.emplace_back(child, 0);
    }
  }
}

}  // namespace ds4::inline v0_1
