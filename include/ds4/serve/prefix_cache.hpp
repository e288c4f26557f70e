// States of sequences that were taken in, found again by what a new sequence begins with.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/core/checked_stream.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/serve/served_model.hpp>

namespace ds4::inline v0_1 {

/// What a PrefixCache may hold, and where.
struct PrefixCacheOptions {
  std::size_t memory_bytes = std::size_t{1} << 30;  ///< of states in memory, shared rows included
  std::filesystem::path folder = {};                ///< for those on disk; empty: none
  std::size_t disk_bytes = std::size_t{8} << 30;    ///< of files
};

/// What a PrefixCache has done and holds.
struct PrefixCacheCounts {
  ///@{
  /// Lookups that found a state, and that found none.
  std::size_t hits = 0;
  std::size_t misses = 0;
  ///@}
  std::size_t memory_bytes = 0;   ///< of states in memory
  std::size_t memory_states = 0;  ///< how many these are
  std::size_t disk_bytes = 0;     ///< of files
  std::size_t disk_states = 0;    ///< how many states have one
  std::size_t failures = 0;       ///< files that could not be written or read
};

/// A radix tree of token ids whose nodes hold forked states. A lookup finds the longest beginning
/// of a sequence that a state can stand at, by taking back tokens of it if need be. The states that
/// were used least recently go first, from memory to the disk and then away. What follows a found
/// state is bitwise what would have followed without the cache, as states are exact.
class PrefixCache {
 public:
  /// A state that has taken in the first `position` ids of what was looked up.
  struct Found {
    ServedState state = {};    ///< empty if none was found
    std::size_t position = 0;  ///< of it
  };

  /// Keeps a reference to the model. Finds the states that are in the folder, which it makes.
  /// Throws ds4::Error if it cannot be made or read.
  PrefixCache(const ServedModel& model, PrefixCacheOptions options);
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// The state for the longest beginning of ids, shorter than all of them: logits come from taking
  /// in a token.
  Found find(std::span<const std::int32_t> ids);
  /// The length of what find() would find.
  std::size_t reach(std::span<const std::int32_t> ids) const;
  /// Keeps a fork of a state that has taken in just these ids.
  void insert(std::span<const std::int32_t> ids, const ServedState& state);

  /// Writes one state that has no file yet, the most recently used first; false if there is none.
  bool save_one();
  /// Writes all that have no file yet, while go_on() is true.
  template <class GoOn>
  void save_all(GoOn&& go_on) {
    while (go_on() && save_one()) {
    }
  }

  /// What it has done and holds.
  const PrefixCacheCounts& counts() const { return counts_; }

 private:
  struct Node;
  using Children = std::map<std::int32_t, std::unique_ptr<Node>>;
  struct Node {
    Node* parent = nullptr;
    std::vector<std::int32_t> edge;  // the ids from the parent to here
    Children children;
    // Of a state, if there is one:
    ServedState state;           // may be on disk alone
    std::size_t bytes = 0;       // in memory
    std::size_t file_bytes = 0;  // on disk; 0: none
    std::filesystem::path file;  // of the session; beside it is a list of ids
    std::size_t position = 0;
    std::size_t earliest = 0;  // what it can be rolled back to
    std::uint64_t used = 0;    // when; 0: no state here

    bool holds() const { return used > 0; }
  };
  struct Match {
    Node* node = nullptr;
    std::size_t position = 0;
  };

  static constexpr std::uint32_t kVersion = 1;
  static constexpr std::array<char, 8> kMagic{'d', 's', '4', 'c', 'a', 'c', 'h', 'e'};
  /// Tokens to a piece of a list of ids: a wrong number of them costs no more memory than this.
  static constexpr std::size_t kPiece = 4096;
  static constexpr const char* kIdsSuffix = ".ids";
  static constexpr const char* kStateSuffix = ".session";

  Match match(std::span<const std::int32_t> ids) const;
  Node* nearest_below(Node* node, std::size_t depth, std::size_t position) const;
  Node* node_of(std::span<const std::int32_t> ids);
  static std::vector<std::int32_t> ids_of(const Node* node);
  void use(Node* node);
  void hold(Node* node, ServedState state);
  void drop_memory(Node* node);
  void drop_file(Node* node);
  void forget(Node* node);
  void prune(Node* node);
  void fit();
  bool save(Node* node);
  bool restore(Node* node);
  void read_folder();
  void read_entry(const std::filesystem::path& file);

  const ServedModel& model_;
  PrefixCacheOptions options_;
  Node root_;
  std::size_t longest_rollback_ = 0;
  std::uint64_t clock_ = 0;
  std::map<std::uint64_t, Node*> by_use_;   // nodes with a state
  std::map<std::uint64_t, Node*> unsaved_;  // of these, those without a file
  PrefixCacheCounts counts_;
};

inline PrefixCache::PrefixCache(const ServedModel& model, PrefixCacheOptions options)
    : model_(model), options_(std::move(options)) {
  if (options_.folder.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(options_.folder, error);
  if (error) {
    throw Error(ErrorKind::file, detail::printable_path(options_.folder),
                "cannot be made: " + error.message());
  }
  read_folder();
}

/// The shallowest state from a node on that can stand at this position, one in memory before
/// others. The node's own depth is `depth`.
inline PrefixCache::Node* PrefixCache::nearest_below(Node* node, std::size_t depth,
                                                     std::size_t position) const {
  std::vector<std::pair<Node*, std::size_t>> level{{node, depth}};
  while (!level.empty()) {
    Node* best = nullptr;
    std::vector<std::pair<Node*, std::size_t>> next;
    for (const auto& [at, end] : level) {
      if (at->holds() && at->earliest <= position &&
          (best == nullptr || (!best->state.has_value() && at->state.has_value()))) {
        best = at;
      }
      for (auto& [id, child] : at->children) {
        const std::size_t child_end = end + child->edge.size();
        // What is too far behind cannot go back, nor what follows it.
        if (end <= position + longest_rollback_) next.emplace_back(child.get(), child_end);
      }
    }
    if (best != nullptr) return best;
    level = std::move(next);
  }
  return nullptr;
}

inline PrefixCache::Match PrefixCache::match(std::span<const std::int32_t> ids) const {
  const std::size_t most = ids.empty() ? 0 : ids.size() - 1;
  auto* node = const_cast<Node*>(&root_);
  std::size_t depth = 0;
  std::vector<std::pair<Node*, std::size_t>> path;  // nodes whose ids are a beginning
  while (depth < most) {
    const auto child = node->children.find(ids[depth]);
    if (child == node->children.end()) break;
    Node* const next = child->second.get();
    const auto rest = ids.subspan(depth, most - depth);
    const auto common =
        static_cast<std::size_t>(std::ranges::mismatch(next->edge, rest).in1 - next->edge.begin());
    if (common < next->edge.size()) {  // behind the common beginning
      const std::size_t end = depth + next->edge.size();
      depth += common;
      if (Node* const found = nearest_below(next, end, depth)) return {found, depth};
      break;
    }
    depth += common;
    node = next;
    path.emplace_back(node, depth);
  }
  for (auto at = path.rbegin(); at != path.rend(); ++at) {
    const auto& [on_path, position] = *at;
    if (Node* const found = nearest_below(on_path, position, position)) return {found, position};
  }
  return {};
}

inline std::size_t PrefixCache::reach(std::span<const std::int32_t> ids) const {
  return match(ids).position;
}

inline PrefixCache::Found PrefixCache::find(std::span<const std::int32_t> ids) {
  for (;;) {
    const Match found = match(ids);
    if (found.node == nullptr) {
      ++counts_.misses;
      return {};
    }
    if (!found.node->state.has_value() && !restore(found.node)) continue;  // it is forgotten now
    use(found.node);
    Found result{found.node->state, found.position};
    fit();
    model_.rollback(result.state, model_.position(result.state) - found.position);
    ++counts_.hits;
    return result;
  }
}

inline void PrefixCache::insert(std::span<const std::int32_t> ids, const ServedState& state) {
  if (ids.empty()) return;
  Node* const node = node_of(ids);
  if (node->holds() && node->state.has_value()) {
    use(node);
    return;
  }
  if (!node->holds()) {
    node->position = ids.size();
    node->earliest = ids.size() - model_.rollback_available(state);
    longest_rollback_ = std::max(longest_rollback_, ids.size() - node->earliest);
  }
  use(node);
  hold(node, state);
  fit();
}

/// The node behind these ids, made if need be.
inline PrefixCache::Node* PrefixCache::node_of(std::span<const std::int32_t> ids) {
  Node* node = &root_;
  while (!ids.empty()) {
    auto& place = node->children[ids.front()];
    if (!place) {
      place = std::make_unique<Node>();
      place->parent = node;
      place->edge.assign(ids.begin(), ids.end());
      return place.get();
    }
    const auto common =
        static_cast<std::size_t>(std::ranges::mismatch(place->edge, ids).in1 - place->edge.begin());
    if (common < place->edge.size()) {  // in the middle of an edge: there is a node from now on
      auto middle = std::make_unique<Node>();
      middle->parent = node;
      middle->edge.assign(place->edge.begin(),
                          place->edge.begin() + static_cast<std::ptrdiff_t>(common));
      place->edge.erase(place->edge.begin(),
                        place->edge.begin() + static_cast<std::ptrdiff_t>(common));
      place->parent = middle.get();
      const std::int32_t first = place->edge.front();
      middle->children[first] = std::move(place);
      place = std::move(middle);
    }
    node = place.get();
    ids = ids.subspan(common);
  }
  return node;
}

inline std::vector<std::int32_t> PrefixCache::ids_of(const Node* node) {
  std::vector<const Node*> path;
  for (; node->parent != nullptr; node = node->parent) path.push_back(node);
  std::vector<std::int32_t> ids;
  for (auto at = path.rbegin(); at != path.rend(); ++at) {
    ids.insert(ids.end(), (*at)->edge.begin(), (*at)->edge.end());
  }
  return ids;
}

inline void PrefixCache::use(Node* node) {
  const bool is_unsaved = unsaved_.erase(node->used) > 0;
  by_use_.erase(node->used);
  node->used = ++clock_;
  by_use_[node->used] = node;
  if (is_unsaved) unsaved_[node->used] = node;
}

inline void PrefixCache::hold(Node* node, ServedState state) {
  node->state = std::move(state);
  node->bytes = model_.state_bytes(node->state);
  counts_.memory_bytes += node->bytes;
  ++counts_.memory_states;
  if (node->file_bytes == 0 && !options_.folder.empty()) unsaved_[node->used] = node;
}

inline void PrefixCache::drop_memory(Node* node) {
  if (!node->state.has_value()) return;
  node->state.reset();
  counts_.memory_bytes -= node->bytes;
  --counts_.memory_states;
  unsaved_.erase(node->used);
}

inline void PrefixCache::drop_file(Node* node) {
  if (node->file_bytes == 0) return;
  std::error_code ignored;
  std::filesystem::remove(node->file.native() + kIdsSuffix, ignored);
  std::filesystem::remove(node->file.native() + kStateSuffix, ignored);
  counts_.disk_bytes -= node->file_bytes;
  --counts_.disk_states;
  node->file_bytes = 0;
}

inline void PrefixCache::forget(Node* node) {
  drop_memory(node);
  drop_file(node);
  by_use_.erase(node->used);
  node->used = 0;
  prune(node);
}

/// Removes a node that is of no use, and one that then has a single child and no state.
inline void PrefixCache::prune(Node* node) {
  while (node->parent != nullptr && !node->holds() && node->children.empty()) {
    Node* const parent = node->parent;
    parent->children.erase(node->edge.front());
    node = parent;
  }
  if (node->parent == nullptr || node->holds() || node->children.size() != 1) return;
  std::unique_ptr<Node> child = std::move(node->children.begin()->second);
  child->edge.insert(child->edge.begin(), node->edge.begin(), node->edge.end());
  child->parent = node->parent;
  node->parent->children[child->edge.front()] = std::move(child);  // the node is gone
}

inline void PrefixCache::fit() {
  for (auto at = by_use_.begin();
       at != by_use_.end() && counts_.memory_bytes > options_.memory_bytes;) {
    Node* const node = at->second;
    ++at;
    if (!node->state.has_value()) continue;
    if (!options_.folder.empty() && node->file_bytes == 0) save(node);
    if (node->file_bytes > 0) {
      drop_memory(node);
    } else {
      forget(node);
    }
  }
  for (auto at = by_use_.begin();
       at != by_use_.end() && counts_.disk_bytes > options_.disk_bytes;) {
    Node* const node = at->second;
    ++at;
    if (node->file_bytes == 0) continue;
    drop_file(node);
    if (!node->state.has_value()) forget(node);
  }
}

inline bool PrefixCache::save_one() {
  while (!unsaved_.empty()) {
    Node* const node = std::prev(unsaved_.end())->second;
    if (save(node)) {
      fit();
      return true;
    }
  }
  return false;
}

/// Writes a state and its ids, the ids last: a state without them does not count. What cannot be
/// written stays in memory alone.
inline bool PrefixCache::save(Node* node) {
  unsaved_.erase(node->used);
  const std::vector<std::int32_t> ids = ids_of(node);
  detail::Checksum sum;
  sum.add(std::as_bytes(std::span(ids)));
  node->file =
      options_.folder / (detail::hexadecimal(sum.value()) + "-" + std::to_string(ids.size()));
  try {
    const std::filesystem::path state_file = node->file.native() + kStateSuffix;
    const std::filesystem::path ids_file = node->file.native() + kIdsSuffix;
    model_.save_state(state_file, ids, node->state);
    std::ostringstream stream;
    detail::CheckedWriter writer(stream, detail::printable_path(ids_file));
    writer.value(kMagic);
    writer.value(kVersion);
    writer.value(static_cast<std::uint64_t>(node->earliest));
    writer.value(static_cast<std::uint64_t>(ids.size()));
    for (std::size_t done = 0; done < ids.size(); done += kPiece) {  // in pieces as it is read
      const std::size_t count = std::min(kPiece, ids.size() - done);
      writer.bytes(std::as_bytes(std::span(ids).subspan(done, count)));
    }
    writer.finish();
    const std::string text = stream.str();
    NewFile file(ids_file);
    file.write_at(0, std::as_bytes(std::span(text)));
    file.finish();
    node->file_bytes = std::filesystem::file_size(state_file) + text.size();
  } catch (const Error&) {
    ++counts_.failures;
    return false;
  } catch (const std::filesystem::filesystem_error&) {
    ++counts_.failures;
    return false;
  }
  counts_.disk_bytes += node->file_bytes;
  ++counts_.disk_states;
  return true;
}

/// Reads a state from its file, or forgets it.
inline bool PrefixCache::restore(Node* node) {
  try {
    auto [ids, state] = model_.load_state(node->file.native() + kStateSuffix);
    if (ids != ids_of(node) || model_.position(state) != node->position) {
      throw Error(ErrorKind::file, detail::printable_path(node->file),
                  "found a state of other tokens");
    }
    node->earliest = node->position - model_.rollback_available(state);
    hold(node, std::move(state));
    return true;
  } catch (const Error&) {
    ++counts_.failures;
    forget(node);
    return false;
  }
}

inline void PrefixCache::read_folder() {
  std::error_code error;
  std::vector<std::pair<std::filesystem::file_time_type, std::filesystem::path>> files;
  for (const auto& entry : std::filesystem::directory_iterator(options_.folder, error)) {
    if (entry.path().extension() != kIdsSuffix) continue;
    const auto time = entry.last_write_time(error);
    files.emplace_back(time, entry.path());
  }
  if (error) {
    throw Error(ErrorKind::file, detail::printable_path(options_.folder),
                "cannot be read: " + error.message());
  }
  std::ranges::sort(files);
  for (const auto& [time, file] : files) read_entry(file);
  fit();
}

/// The ids of a state, which is read when it is needed. Files that are no such thing are left
/// alone.
inline void PrefixCache::read_entry(const std::filesystem::path& file) {
  try {
    std::ifstream stream(file, std::ios::binary);
    detail::CheckedReader in(stream, detail::printable_path(file));
    if (in.value<std::array<char, 8>>() != kMagic || in.value<std::uint32_t>() != kVersion) {
      in.fail("found something else, expected the ids of a state");
    }
    const auto earliest = in.value<std::uint64_t>();
    const auto count = in.value<std::uint64_t>();
    std::vector<std::int32_t> ids;
    while (ids.size() < count) {
      const std::size_t done = ids.size();
      ids.resize(done + static_cast<std::size_t>(std::min<std::uint64_t>(count - done, kPiece)));
      in.bytes(std::as_writable_bytes(std::span(ids).subspan(done)));
    }
    in.finish();
    std::filesystem::path stem = file;
    stem.replace_extension();
    const std::filesystem::path state_file = stem.native() + kStateSuffix;
    if (ids.empty() || earliest > ids.size() || !std::filesystem::is_regular_file(state_file)) {
      in.fail("expected a state beside it");
    }
    Node* const node = node_of(ids);
    if (node->holds()) return;
    node->file = stem;
    node->position = ids.size();
    node->earliest = static_cast<std::size_t>(earliest);
    longest_rollback_ = std::max(longest_rollback_, node->position - node->earliest);
    node->file_bytes = std::filesystem::file_size(state_file) + std::filesystem::file_size(file);
    use(node);
    counts_.disk_bytes += node->file_bytes;
    ++counts_.disk_states;
  } catch (const Error&) {
    ++counts_.failures;
  } catch (const std::filesystem::filesystem_error&) {
    ++counts_.failures;
  }
}

}  // namespace ds4::inline v0_1
