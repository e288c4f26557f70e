// Memory of an execution space: values that the host cannot read, and copies.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <type_traits>

#include <Kokkos_Core.hpp>

#include <ds4/core/error.hpp>
#include <ds4/core/tensor.hpp>

namespace ds4::inline v0_1::kokkos {

/// Whether an execution space is one of the host: its memory is the host's, and its teams are
/// threads that have vectors instead of threads that are a vector's lanes.
template <class Space>
inline constexpr bool kOnHost = std::is_same_v<typename Space::memory_space, Kokkos::HostSpace>;

/// The level of team scratch memory that kernels use: shared memory, or on the host what has room.
template <class Space>
inline constexpr int kScratchLevel = kOnHost<Space> ? 1 : 0;

/// A T in the memory of an execution space. The host can point at it but neither read nor write it:
/// an expression that tries does not compile.
template <class T>
class OnDevice {
 public:
  OnDevice() = delete;
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() = delete;

 private:
  T value_;
};

/// Elements and indices of a backend's tensors.
using Element = OnDevice<float>;
using Index = OnDevice<std::int32_t>;

/// The address as kernels use it. To dereference it on the host is an error that no type prevents;
/// nothing but kernels and copies asks for it.
template <class T>
KOKKOS_INLINE_FUNCTION T* raw(OnDevice<T>* at) {
  return reinterpret_cast<T*>(at);
}
template <class T>
KOKKOS_INLINE_FUNCTION const T* raw(const OnDevice<T>* at) {
  return reinterpret_cast<const T*>(at);
}

template <class T, std::size_t... E>
auto* raw(RowsView<T, E...> view) {
  return raw(view.data());
}

/// Bytes in the memory of a space, freed with the last copy; none to begin with.
template <class Space>
class Bytes {
  using MemorySpace = typename Space::memory_space;

 public:
  Bytes() = default;
  /// Not initialised. Throws ds4::Error, which says what they are for, if there is no room.
  Bytes(const std::string& what, std::size_t size) : size_(size) {
    void* memory = nullptr;
    try {
      memory = Kokkos::kokkos_malloc<MemorySpace>(what, size);
    } catch (const std::exception&) {  // of a type that differs between Kokkos' versions
    }
    if (memory == nullptr && size > 0) {
      throw Error(
          ErrorKind::memory, what,
          "found no room for " + std::to_string(size) + " bytes in the memory of " + Space::name());
    }
    memory_ = {static_cast<std::byte*>(memory),
               [](std::byte* at) { Kokkos::kokkos_free<MemorySpace>(at); }};
  }

  std::byte* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }
  /// Whether a copy has this memory as well; if not, all that was done with copies is over.
  bool is_shared() const {
    if (memory_.use_count() > 1) return true;
    std::atomic_thread_fence(std::memory_order_acquire);  // the count is read without order
    return false;
  }

 private:
  std::shared_ptr<std::byte> memory_;
  std::size_t size_ = 0;
};

/// Copies between the host's memory and the space's, complete on return.
template <class Space>
void copy_to_device(const Space& space, std::byte* device, const void* host, std::size_t bytes) {
  using Host = Kokkos::View<const std::byte*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>;
  using Device = Kokkos::View<std::byte*, typename Space::memory_space, Kokkos::MemoryUnmanaged>;
  Kokkos::deep_copy(space, Device(device, bytes), Host(static_cast<const std::byte*>(host), bytes));
  space.fence("ds4::copy_to_device");
}
template <class Space>
void copy_to_host(const Space& space, void* host, const std::byte* device, std::size_t bytes) {
  using Host = Kokkos::View<std::byte*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>;
  using Device =
      Kokkos::View<const std::byte*, typename Space::memory_space, Kokkos::MemoryUnmanaged>;
  Kokkos::deep_copy(space, Host(static_cast<std::byte*>(host), bytes), Device(device, bytes));
  space.fence("ds4::copy_to_host");
}
/// Copies within the space's memory, in the order of its other work; the ranges do not overlap.
template <class Space>
void copy_on_device(const Space& space, std::byte* to, const std::byte* from, std::size_t bytes) {
  using Device = Kokkos::View<std::byte*, typename Space::memory_space, Kokkos::MemoryUnmanaged>;
  using Source =
      Kokkos::View<const std::byte*, typename Space::memory_space, Kokkos::MemoryUnmanaged>;
  Kokkos::deep_copy(space, Device(to, bytes), Source(from, bytes));
}

/// Values [E...] of T on the device: a norm's weight, a bias, a table. Copies share the memory,
/// which nothing writes to after the upload.
template <class Space, class T, std::size_t Lead, std::size_t... Rest>
class Constants {
 public:
  static constexpr std::size_t kLead = Lead;
  using Host = Tensor<T, Lead, Rest...>;

  Constants() = default;
  Constants(const Space& space, const Host& values)
      : memory_("ds4 parameters", values.size() * sizeof(T)) {
    copy_to_device(space, memory_.data(), values.data(), memory_.size());
  }
  const OnDevice<T>* data() const { return reinterpret_cast<const OnDevice<T>*>(memory_.data()); }

 private:
  Bytes<Space> memory_;
};

}  // namespace ds4::inline v0_1::kokkos
