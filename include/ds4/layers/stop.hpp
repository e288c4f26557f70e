// Ending a pass before its end, on request.
#pragma once

#include <functional>

#include <ds4/core/error.hpp>

namespace ds4::inline v0_1 {

/// Asked again and again during a pass, between the parts of every layer: true ends the pass.
/// Called from one thread; must not throw. An empty one asks nothing.
using StopCheck = std::function<bool()>;

/// What a pass that a StopCheck ended throws.
class Stopped : public Error {
 public:
  /// "ds4: pass: stopped before its end".
  Stopped() : Error("pass", "stopped before its end") {}
};

namespace detail {

/// Asks a StopCheck for all lanes of a pass together.
class PassStop {
 public:
  explicit PassStop(const StopCheck& check) : check_(check) {}

  /// All lanes come here. Throws Stopped on each of them or on none: none waits for another.
  template <class B>
  void look(B& lane) {
    if (lane.is_leader()) stopped_ = check_();
    lane.wait_for_all();
    const bool stopped = stopped_;
    lane.wait_for_all();  // only then may the leader ask again
    if (stopped) throw Stopped();
  }

 private:
  const StopCheck& check_;
  bool stopped_ = false;
};

}  // namespace detail

}  // namespace ds4::inline v0_1
