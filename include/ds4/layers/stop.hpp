// Ending a pass before its end, on request.
#pragma once

#include <functional>

#include <ds4/core/error.hpp>

namespace ds4::inline v0_1 {

/// Asked again and again during a pass, between the parts of every layer: true ends the pass.
/// Called from one thread. An empty one asks nothing.
using StopCheck = std::function<bool()>;

/// What a pass that a StopCheck ended throws.
class Stopped : public Error {
 public:
  /// "ds4: pass: stopped before its end".
  Stopped() : Error(ErrorKind::stopped, "pass", "stopped before its end") {}
};

namespace detail {

/// All lanes of a pass come here. Throws Stopped on the leader, which ends the pass on all of them.
template <class B>
void look_for_stop(const StopCheck& check, B& lane) {
  if (lane.is_leader() && check()) throw Stopped();
}

}  // namespace detail

}  // namespace ds4::inline v0_1
