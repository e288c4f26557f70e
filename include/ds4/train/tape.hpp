// The tape: the memory of a pass that is to be differentiated, and how to go back through it.
//
// Operations are recorded as they run. Going back, the last one turns the gradient of what it wrote
// into gradients of what it read, frees the former, and so on. The gradient of a buffer exists from
// the first time that something reaches it, so an operation that nothing came back to is skipped.
// An operation that overwrites what an earlier one has read puts that back before the earlier one's
// turn.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include <ds4/core/version.hpp>
#include <ds4/train/address_range.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// Blocks of memory that are kept when they are given back. Without memory (`dry`) its blocks are
/// addresses that nothing may read, and its counts are what they would be.
class BlockPool {
 public:
  explicit BlockPool(bool dry) {
    if (dry) addresses_.emplace(kDryBytes);
  }
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool() {
    assert(in_use_ == 0);
    for (const auto& [size, block] : free_) release(block);
  }

  /// A block of at least `bytes` bytes, 64-byte aligned, not initialised, and its size.
  std::pair<std::byte*, std::size_t> take(std::size_t bytes) {
    const std::size_t size = std::max<std::size_t>((bytes + kAlign - 1) / kAlign, 1) * kAlign;
    std::pair<std::byte*, std::size_t> taken;
    const auto at = free_.lower_bound(size);
    if (at != free_.end() && at->first - size <= size / kWaste) {
      taken = {at->second, at->first};
      free_.erase(at);
    } else {
      taken = {reserve(size), size};
      held_ += size;
    }
    in_use_ += taken.second;
    peak_ = std::max(peak_, in_use_);
    return taken;
  }
  /// The block is free again.
  void give_back(std::byte* block, std::size_t size) {
    in_use_ -= size;
    free_.emplace_hint(free_.lower_bound(size), size,
                       block);  // the next to be taken: in the caches
  }

  std::size_t in_use() const { return in_use_; }
  std::size_t peak() const { return peak_; }
  std::size_t held() const { return held_; }

 private:
  static constexpr std::size_t kAlign = 64;
  static constexpr std::size_t kDryBytes = std::size_t{1} << 45;
  static constexpr std::size_t kWaste = 8;  // a block may be larger than asked for by an eighth

  std::byte* reserve(std::size_t size) {
    if (!addresses_) {
      return static_cast<std::byte*>(::operator new(size, std::align_val_t{kAlign}));
    }
    if (size > addresses_->bytes() - handed_out_) throw std::bad_alloc();
    handed_out_ += size;
    return addresses_->begin() + (handed_out_ - size);
  }
  void release(std::byte* block) const {
    if (!addresses_) ::operator delete(block, std::align_val_t{kAlign});
  }

  std::optional<AddressRange> addresses_;
  std::size_t handed_out_ = 0;  // of them
  std::multimap<std::size_t, std::byte*> free_;
  std::size_t in_use_ = 0;
  std::size_t peak_ = 0;
  std::size_t held_ = 0;
};

}  // namespace detail

/// Values, gradients and operations of one pass, in T. What is allocated lives until release() or
/// the end of the pass.
template <class T>
class Tape {
 public:
  /// `dry`: nothing is allocated, only counted.
  explicit Tape(bool dry = false) : pool_(dry) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  ~Tape() { clear(); }

  /// Memory for `count` values, not initialised. A buffer that is not `wanted` never has a
  /// gradient.
  T* allocate(std::size_t count, bool wanted = true) {
    Buffer buffer;
    buffer.values = take(count, buffer.size);
    buffer.count = count;
    buffer.wanted = wanted;
    places_[buffer.values] = buffers_.size();
    buffers_.push_back(buffer);
    return buffer.values;
  }
  /// The same for indices, which have no gradient.
  std::int32_t* allocate_indices(std::size_t count) {
    constexpr std::size_t kPer = sizeof(T) / sizeof(std::int32_t);
    return reinterpret_cast<std::int32_t*>(allocate((count + kPer - 1) / kPer, false));
  }

  /// The gradient of the values at p, or nullptr if nothing has reached their buffer.
  T* gradient(const T* p) {
    Buffer& buffer = find(p);
    return buffer.gradient == nullptr ? nullptr : buffer.gradient + (p - buffer.values);
  }

  /// Where the gradient of `count` values is to be added.
  struct Target {
    T* at;     ///< nullptr if it is not wanted
    bool set;  ///< nothing is there yet: it has to be set, all of it
  };
  /// That of the values at p. zero(T*, count) makes zeros.
  template <class Zero>
  Target target(const T* p, std::size_t count, Zero&& zero) {
    Buffer& buffer = find(p);
    if (!buffer.wanted) return {nullptr, false};
    const bool fresh = buffer.gradient == nullptr;
    if (fresh) buffer.gradient = take(buffer.count, buffer.gradient_size);
    const bool set = fresh && count == buffer.count;
    if (fresh && !set) zero(buffer.gradient, buffer.count);
    return {buffer.gradient + (p - buffer.values), set};
  }
  /// Takes the gradient of the whole buffer at p away: what comes next starts anew.
  class Taken {
   public:
    /// What was taken, null or a block of `size` bytes.
    Taken(Tape& tape, T* gradient, std::size_t size)
        : tape_(&tape), gradient_(gradient), size_(size) {}
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;
    ~Taken() {
      if (gradient_ != nullptr) tape_->give_back(gradient_, size_);
    }
    /// Null if nothing had reached it.
    T* get() const { return gradient_; }

   private:
    Tape* tape_;
    T* gradient_;
    std::size_t size_;
  };
  /// See Taken.
  Taken take_gradient(const T* p) {
    Buffer& buffer = find(p);
    assert(p == buffer.values);
    return Taken(*this, std::exchange(buffer.gradient, nullptr), buffer.gradient_size);
  }

  /// Appends an operation's way back.
  void record(std::function<void()> back) { records_.push_back(std::move(back)); }
  /// Goes back through all operations, the last one first; those that an operation records while it
  /// goes back come next.
  void go_back() {
    kept_ = bytes();
    while (!records_.empty()) {
      const std::function<void()> back = std::move(records_.back());
      records_.pop_back();
      back();
    }
  }

  /// What is allocated from here on...
  std::size_t mark() const { return buffers_.size(); }
  /// ... is given back, gradients included.
  void release(std::size_t mark) {
    while (buffers_.size() > mark) {
      const Buffer& buffer = buffers_.back();
      places_.erase(buffer.values);
      if (buffer.gradient != nullptr) give_back(buffer.gradient, buffer.gradient_size);
      give_back(buffer.values, buffer.size);
      buffers_.pop_back();
    }
  }
  /// Ends the pass: nothing is recorded or allocated.
  void clear() {
    records_.clear();
    release(0);
  }

  ///@{
  /// Bytes that are in use, that were at most, and that are kept for use.
  std::size_t bytes() const { return pool_.in_use(); }
  std::size_t peak_bytes() const { return pool_.peak(); }
  std::size_t held_bytes() const { return pool_.held(); }
  ///@}
  /// Bytes that were in use when going back last began: what the pass has kept for it.
  std::size_t kept_bytes() const { return kept_; }

 private:
  struct Buffer {
    T* values = nullptr;
    std::size_t count = 0;
    std::size_t size = 0;  // bytes
    T* gradient = nullptr;
    std::size_t gradient_size = 0;
    bool wanted = true;
  };

  T* take(std::size_t count, std::size_t& size) {
    const auto [block, bytes] = pool_.take(count * sizeof(T));
    size = bytes;
    return reinterpret_cast<T*>(block);
  }
  void give_back(T* block, std::size_t size) {
    pool_.give_back(reinterpret_cast<std::byte*>(block), size);
  }
  Buffer& find(const T* p) {
    const auto at = std::prev(places_.upper_bound(p));
    Buffer& buffer = buffers_[at->second];
    assert(p >= buffer.values && p < buffer.values + std::max<std::size_t>(buffer.count, 1));
    return buffer;
  }

  detail::BlockPool pool_;
  std::vector<Buffer> buffers_;
  std::map<const T*, std::size_t> places_;  // of the buffers, by address
  std::vector<std::function<void()>> records_;
  std::size_t kept_ = 0;
};

}  // namespace ds4::inline v0_1
