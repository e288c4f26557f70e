// Scratch memory of a pass: a stack in the space's memory, kept from pass to pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// Stack-like scratch memory that is kept from pass to pass.
template <class Space>
class Arena {
 public:
  struct Cursor {
    std::size_t block = 0;
    std::size_t used = 0;
  };

  std::byte* take(Cursor& cursor, std::size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    while (cursor.block < blocks_.size() && cursor.used + bytes > blocks_[cursor.block].size()) {
      cursor = {cursor.block + 1, 0};
    }
    if (cursor.block == blocks_.size()) {
      blocks_.emplace_back("ds4 scratch memory", std::max(bytes, kLeastBlock));
    }
    std::byte* memory = blocks_[cursor.block].data() + cursor.used;
    cursor.used += bytes;
    return memory;
  }
  void release() { blocks_.clear(); }
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const auto& block : blocks_) sum += block.size();
    return sum;
  }

 private:
  static constexpr std::size_t kAlignment = 256;
  static constexpr std::size_t kLeastBlock = std::size_t{4} << 20;
  std::vector<Bytes<Space>> blocks_;
};

/// Memory for as long as this object lives.
template <class Space>
class Scratch {
 public:
  /// Takes memory where the cursor has come to.
  Scratch(const Space& space, Arena<Space>& arena, typename Arena<Space>::Cursor& cursor)
      : space_(space), arena_(arena), cursor_(cursor), begin_(cursor) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { cursor_ = begin_; }

  ///@{
  /// Activations [S, E...], and indices of this shape.
  template <std::size_t... E>
  RowsView<Element, E...> rows(std::size_t S) {
    return {device<float>(S * (E * ... * 1)), S};
  }
  template <std::size_t... E>
  RowsView<Index, E...> indices(std::size_t S) {
    return {device<std::int32_t>(S * (E * ... * 1)), S};
  }
  ///@}
  /// An array of anything in the host's memory.
  template <class Item>
  std::span<Item> array(std::size_t count) {
    auto items = std::make_shared<std::vector<Item>>(count);
    arrays_.push_back(items);
    return *items;
  }
  /// The host's indices where the backend can read them.
  std::span<const Index> upload(std::span<const std::int32_t> host) {
    auto* memory = device<std::int32_t>(host.size());
    copy_to_device(space_, reinterpret_cast<std::byte*>(memory), host.data(), host.size_bytes());
    return {memory, host.size()};
  }
  /// Rows for a result that `deliver` brings to the host's memory.
  template <std::size_t... E>
  RowsView<Element, E...> result(RowsView<float, E...> host) {
    return rows<E...>(host.extent(0));
  }
  /// `count` items in the space, not initialised.
  template <class Item>
  OnDevice<Item>* device(std::size_t count) {
    return reinterpret_cast<OnDevice<Item>*>(arena_.take(cursor_, count * sizeof(Item)));
  }

 private:
  const Space& space_;
  Arena<Space>& arena_;
  typename Arena<Space>::Cursor& cursor_;
  typename Arena<Space>::Cursor begin_;
  std::vector<std::shared_ptr<void>> arrays_;
};

/// A backend's scratch memory.
template <class Space>
class ScratchMemory {
 public:
  /// Memory for a part of the pass.
  Scratch<Space> scratch() { return {backend_of(this).space(), *arena_, cursor_}; }
  /// Memory of the space that is kept from pass to pass: what the largest pass so far took.
  std::size_t scratch_bytes() const { return arena_->bytes(); }
  /// Gives it back; not during a pass.
  void release_scratch() {
    backend_of(this).space().fence("ds4::scratch");
    arena_->release();
  }

 private:
  std::shared_ptr<Arena<Space>> arena_ = std::make_shared<Arena<Space>>();
  typename Arena<Space>::Cursor cursor_;
};

}  // namespace ds4::inline v0_1::kokkos
