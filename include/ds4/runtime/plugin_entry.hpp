// What makes a source a plugin; see plugin.hpp, which writes such sources.
#pragma once

#include <memory>
#include <string_view>

#include <ds4/checkpoint/fault_guard.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/model_of.hpp>
#include <ds4/runtime/plugin.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// What the program that has loaded this plugin brings.
inline PluginHost& loaded_by() {
  static PluginHost host;
  return host;
}

inline void set_up_plugin(const PluginHost& host) {
  loaded_by() = host;
  if (host.guards_faults) static const FaultGuard guard;
}

}  // namespace detail

}  // namespace ds4::inline v0_1

// A plugin is compiled without kernels; other sources have kernels of their own.
#if defined(DS4_SIMD_COMPILED) && defined(DS4_SIMD_TRAINING_COMPILED)
namespace ds4::inline v0_1::simd {

///@{
/// Those of the program.
[[gnu::weak]] const Kernels& chosen_kernels() { return *detail::loaded_by().kernels; }
[[gnu::weak]] const TrainingKernels& chosen_training_kernels() {
  return *detail::loaded_by().training_kernels;
}
///@}

}  // namespace ds4::inline v0_1::simd
#endif

/// The entry of a plugin: a configuration on a backend, and what makes it trainable or nullptr.
#define DS4_PLUGIN(kFingerprint, C, B, make_trainable)                                 \
  extern "C" [[gnu::visibility("default")]] const ds4::CompiledModel* ds4_plugin(      \
      const char* fingerprint, const ds4::PluginHost* host) {                          \
    if (std::string_view(fingerprint) != kFingerprint) return nullptr;                 \
    ds4::detail::set_up_plugin(*host);                                                 \
    static const ds4::CompiledModel model = ds4::compiled_model<C, B>(make_trainable); \
    return &model;                                                                     \
  }
