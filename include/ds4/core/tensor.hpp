// Dense row-major tensors on the host whose extents are part of their type.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// An extent known at run time. Only a leading extent (a token count, a state length) can be.
inline constexpr std::size_t kDynamic = std::dynamic_extent;

namespace detail {
/// Elements behind the leading extent of a shape.
template <std::size_t Lead, std::size_t... Rest>
inline constexpr std::size_t kInner = (Rest * ... * 1);

template <std::size_t... E>
inline constexpr bool kOnlyLeadIsDynamic = false;
template <std::size_t Lead, std::size_t... Rest>
inline constexpr bool kOnlyLeadIsDynamic<Lead, Rest...> = ((Rest != kDynamic) && ...);
}  // namespace detail

/// A view of [Lead, Rest...] elements in row-major order. Copies are shallow; T may be const.
template <class T, std::size_t Lead, std::size_t... Rest>
class TensorView {
  static_assert(detail::kOnlyLeadIsDynamic<Lead, Rest...>,
                "ds4::TensorView: only the leading extent may be kDynamic");

 public:
  ///@{
  /// Element type, and how many extents.
  using value_type = T;
  static constexpr std::size_t kRank = 1 + sizeof...(Rest);
  ///@}

  ///@{
  /// `data` points at size() elements, where `lead` is the leading extent.
  constexpr TensorView(T* data, std::size_t lead)
    requires(Lead == kDynamic)
      : data_(data), lead_(lead) {}
  constexpr explicit TensorView(T* data)
    requires(Lead != kDynamic)
      : data_(data), lead_(Lead) {}
  ///@}

  /// A view to const elements from one to mutable elements.
  template <class U>
    requires(std::is_const_v<T> && std::is_same_v<const U, T>)
  constexpr TensorView(TensorView<U, Lead, Rest...> other)
      : data_(other.data()), lead_(other.extent(0)) {}

  ///@{
  /// The elements, and the extents by axis.
  constexpr T* data() const { return data_; }
  constexpr std::size_t size() const { return lead_ * detail::kInner<Lead, Rest...>; }
  constexpr std::span<T> flat() const { return {data_, size()}; }
  constexpr std::size_t extent(std::size_t axis) const {
    const std::array<std::size_t, kRank> extents{lead_, Rest...};
    return extents[axis];
  }
  ///@}

  /// The same elements, const.
  constexpr TensorView<const T, Lead, Rest...> as_const() const { return *this; }

  /// Element at one index per axis; not range-checked.
  template <class... I>
  constexpr T& operator()(I... index) const {
    static_assert(sizeof...(I) == kRank, "ds4::TensorView: one index per axis");
    constexpr std::array<std::size_t, kRank> extents{Lead, Rest...};
    const std::array<std::size_t, kRank> indices{static_cast<std::size_t>(index)...};
    std::size_t offset = indices[0];
    for (std::size_t axis = 1; axis < kRank; ++axis)
      offset = offset * extents[axis] + indices[axis];
    return data_[offset];
  }

  ///@{
  /// The sub-tensor [Rest...] at `index` of the leading axis.
  constexpr auto operator[](std::size_t index) const
    requires(sizeof...(Rest) > 0)
  {
    return TensorView<T, Rest...>(data_ + index * detail::kInner<Lead, Rest...>);
  }
  constexpr T& operator[](std::size_t index) const
    requires(sizeof...(Rest) == 0)
  {
    return data_[index];
  }
  ///@}

  /// Rows first .. first + count - 1 of the leading axis.
  constexpr TensorView<T, kDynamic, Rest...> rows(std::size_t first, std::size_t count) const {
    return {data_ + first * detail::kInner<Lead, Rest...>, count};
  }

  /// The same elements with other inner extents, e.g. [S, H * d] as [S, H, d].
  template <std::size_t... NewRest>
  constexpr TensorView<T, Lead, NewRest...> as() const {
    constexpr std::size_t inner = detail::kInner<Lead, Rest...>;
    constexpr std::size_t new_inner = (NewRest * ... * 1);
    static_assert(inner == new_inner,
                  "ds4::TensorView::as: the product of the inner extents stays");
    if constexpr (Lead == kDynamic) {
      return {data_, lead_};
    } else {
      return TensorView<T, Lead, NewRest...>(data_);
    }
  }

 private:
  T* data_;
  std::size_t lead_;
};

/// An owning tensor: 64-byte aligned heap memory, zero-initialised, a plain value (copies are
/// deep).
template <class T, std::size_t Lead, std::size_t... Rest>
class Tensor {
 public:
  ///@{
  /// Element type, views of this shape, and the leading extent.
  using value_type = T;
  using View = TensorView<T, Lead, Rest...>;
  using ConstView = TensorView<const T, Lead, Rest...>;
  static constexpr std::size_t kLead = Lead;
  ///@}

  ///@{
  /// Zeros; a deep copy; the elements of another, which is then empty.
  Tensor()
    requires(Lead != kDynamic)
      : Tensor(Lead, nullptr) {}
  explicit Tensor(std::size_t lead = 0)
    requires(Lead == kDynamic)
      : Tensor(lead, nullptr) {}
  Tensor(const Tensor& other) : Tensor(other.lead_, nullptr) {
    std::copy_n(other.data(), other.size(), data());
  }
  Tensor(Tensor&& other) noexcept
      : lead_(std::exchange(other.lead_, 0)), data_(std::move(other.data_)) {}
  Tensor& operator=(Tensor other) noexcept {
    std::swap(lead_, other.lead_);
    std::swap(data_, other.data_);
    return *this;
  }
  ///@}
  ~Tensor() = default;

  ///@{
  /// As TensorView has it.
  View view() {
    if constexpr (Lead == kDynamic) {
      return View(data(), lead_);
    } else {
      return View(data());
    }
  }
  ConstView view() const {
    if constexpr (Lead == kDynamic) {
      return ConstView(data(), lead_);
    } else {
      return ConstView(data());
    }
  }
  operator View() { return view(); }
  operator ConstView() const { return view(); }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return lead_ * detail::kInner<Lead, Rest...>; }
  std::size_t extent(std::size_t axis) const { return view().extent(axis); }
  std::span<T> flat() { return {data(), size()}; }
  std::span<const T> flat() const { return {data(), size()}; }

  template <class... I>
  T& operator()(I... index) {
    return view()(index...);
  }
  template <class... I>
  const T& operator()(I... index) const {
    return view()(index...);
  }
  decltype(auto) operator[](std::size_t index) { return view()[index]; }
  decltype(auto) operator[](std::size_t index) const { return view()[index]; }
  ///@}

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlignment); }
  };

  Tensor(std::size_t lead, std::nullptr_t) : lead_(lead) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (size() == 0) return;
    data_.reset(static_cast<T*>(::operator new(size() * sizeof(T), kAlignment)));
    std::uninitialized_value_construct_n(data_.get(), size());
  }

  std::size_t lead_;
  std::unique_ptr<T, Free> data_;
};

/// One row of [E...] per token: the shape of an activation.
template <class T, std::size_t... E>
using Rows = Tensor<T, kDynamic, E...>;
/// A view of such rows.
template <class T, std::size_t... E>
using RowsView = TensorView<T, kDynamic, E...>;

}  // namespace ds4::inline v0_1
