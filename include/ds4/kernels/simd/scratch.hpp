// Scratch memory of the SIMD backend: stacks, one that all lanes share and one for each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/arena.hpp>

namespace ds4::inline v0_1::simd {

/// Memory for as long as this object lives: the same for all lanes that ask for the same.
class Scratch {
 public:
  /// Takes memory where the lane has come to in what all share, and in its own.
  Scratch(Arena::Cursor& shared, Arena::Cursor& own)
      : shared_(shared), own_(own), shared_before_(shared), own_before_(own) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    shared_ = shared_before_;
    own_ = own_before_;
  }

  ///@{
  /// Activations [S, E...], and indices of this shape.
  template <std::size_t... E>
  RowsView<float, E...> rows(std::size_t S) {
    return {shared<float>(S * (E * ... * 1)), S};
  }
  template <std::size_t... E>
  RowsView<std::int32_t, E...> indices(std::size_t S) {
    return {shared<std::int32_t>(S * (E * ... * 1)), S};
  }
  ///@}
  /// This lane's own array.
  template <class Item>
  std::span<Item> array(std::size_t count) {
    Item* items = own<Item>(count);
    std::uninitialized_value_construct_n(items, count);
    return {items, count};
  }
  /// The host's indices where the backend can read them.
  std::span<const std::int32_t> upload(std::span<const std::int32_t> host) { return host; }
  /// Rows for a result that `deliver` brings to the host's memory.
  template <std::size_t... E>
  RowsView<float, E...> result(RowsView<float, E...> host) {
    return host;
  }
  ///@{
  /// An array that is the same for all lanes, and this lane's own; not initialised.
  template <class Item>
  Item* shared(std::size_t count) {
    return reinterpret_cast<Item*>(shared_.allocate(count * sizeof(Item)));
  }
  template <class Item>
  Item* own(std::size_t count) {
    return reinterpret_cast<Item*>(own_.allocate(count * sizeof(Item)));
  }
  ///@}

 private:
  Arena::Cursor& shared_;
  Arena::Cursor& own_;
  Arena::Cursor shared_before_;
  Arena::Cursor own_before_;
};

}  // namespace ds4::inline v0_1::simd
