// The lane of a pass: the thread that launches all kernels, waits for them and has their results.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// A region of Kokkos::Tools: lasts as long as the object.
class Region {
 public:
  explicit Region(const std::string& name) { Kokkos::Profiling::pushRegion(name); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { Kokkos::Profiling::popRegion(); }
};

/// A backend's passes, on the one lane that it has.
template <class Space>
class Lane {
 public:
  /// Calls f(lane) once: this thread launches all kernels.
  template <class F>
  void run(F&& f) {
    auto& backend = backend_of(this);
    f(backend);
    backend.space().fence("ds4::pass");
  }
  /// There is no other lane.
  bool is_leader() const { return true; }
  /// Waits for what has been launched.
  void wait_for_all() { backend_of(this).space().fence("ds4::wait_for_all"); }

  /// Brings a result to the host's memory.
  template <class Item>
  void deliver(std::span<Item> host, std::span<const OnDevice<Item>> values) {
    copy_to_host(backend_of(this).space(), host.data(),
                 reinterpret_cast<const std::byte*>(values.data()), host.size_bytes());
  }
  /// Calls f with the values where the host can read them.
  template <class Item, class F>
  void show(std::span<const OnDevice<Item>> values, F&& f) {
    std::vector<Item> host(values.size());
    deliver(std::span<Item>(host), values);
    f(std::span<const Item>(host));
  }
  /// Marks a part of the pass for Kokkos::Tools, named by all arguments, for as long as what it
  /// returns lives.
  template <class... Parts>
  Region region(const Parts&... parts) {
    std::string name = "ds4::";
    (append_part(name, parts), ...);
    return Region(name);
  }

 private:
  static void append_part(std::string& name, std::string_view part) { name += part; }
  static void append_part(std::string& name, std::size_t part) { name += std::to_string(part); }
};

}  // namespace ds4::inline v0_1::kokkos
