// What a sequence keeps for the drafter of its model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <ds4/config/config.hpp>
#include <ds4/layers/attention.hpp>
#include <ds4/layers/dspark.hpp>
#include <ds4/layers/mtp.hpp>

namespace ds4::inline v0_1 {

/// What a sequence keeps for the drafter: of one kind at a time, that of the checkpoint which takes
/// in its tokens. Source: model.md 9.2 and 19.4.
template <ModelConfig C, Backend B>
class DraftState {
  struct NoMtp {};
  struct NoDspark {};
  template <class Drafter>
  struct StateOf {
    using Type = typename Drafter::State;
  };
  template <class Empty>
  struct None {
    using Type = Empty;
  };

 public:
  ///@{
  /// The kinds of drafter that are compiled.
  static constexpr bool kHasMtp = C::num_nextn_predict_layers > 0;
  static constexpr bool kHasDspark = C::dspark_stages > 0;
  ///@}

  ///@{
  /// What either keeps; only that of kind() is in use.
  [[no_unique_address]]
  typename std::conditional_t<kHasMtp, StateOf<MtpLayer<C, B>>, None<NoMtp>>::Type mtp;
  [[no_unique_address]]
  typename std::conditional_t<kHasDspark, StateOf<DsparkDrafter<C, B>>, None<NoDspark>>::Type
      dspark;
  ///@}

  /// Whether states of this kind can be kept, none included.
  static constexpr bool is_compiled(DrafterKind kind) {
    return kind == DrafterKind::none || (kHasMtp && kind == DrafterKind::mtp) ||
           (kHasDspark && kind == DrafterKind::dspark);
  }

  /// Whose rows are kept; none before the first pass.
  DrafterKind kind() const { return kind_; }

  /// Keeps what follows `position` for a drafter of this kind, which is compiled.
  void begin(DrafterKind kind, std::size_t position) {
    *this = DraftState();
    kind_ = kind;
    visit([&](auto& kept, auto) { kept.begin(position); });
  }
  /// The tokens of the rows that a pass has added.
  void take_in([[maybe_unused]] std::span<const std::int32_t> tokens) {
    if constexpr (kHasMtp) {
      if (kind_ == DrafterKind::mtp) mtp.take_in(tokens);
    }
  }
  /// Whether a draft can be made behind `position` tokens.
  bool reaches(std::size_t position) const {
    bool reached = false;
    visit([&](const auto& kept, auto) { reached = kept.reaches(position); });
    return reached;
  }
  /// Forgets what is not of the first `position` tokens.
  void truncate(std::size_t position) {
    visit([&](auto& kept, auto) { kept.truncate(position); });
  }
  /// Forgets the rows that are made from others: some may not have been finished.
  void forget_derived() {
    visit([&](auto& kept, auto) { kept.forget_derived(); });
  }
  /// Calls f(log, 1, first_needed) for the log that all else can be made from; see
  /// Attention::State.
  template <class Self, class F>
  static void for_each_log(Self& self, F&& f) {
    self.visit([&](auto& kept, auto drafter) {
      using Drafter = typename decltype(drafter)::type;
      if constexpr (requires { kept.streams; }) {
        f(kept.streams, 1, &Drafter::first_needed);
      } else {
        f(kept.targets, 1, &Drafter::first_needed);
      }
    });
  }
  /// Bytes of the rows that are made from others.
  std::size_t derived_bytes() const {
    std::size_t bytes = 0;
    visit([&](const auto& kept, auto) {
      if constexpr (requires { kept.layer; }) {
        bytes += kept.layer.window.bytes();
      } else {
        for (const auto& stage : kept.windows) bytes += stage.window.bytes();
      }
    });
    return bytes;
  }

 private:
  template <class F>
  void visit(F&& f) {
    visit_kind(*this, f);
  }
  template <class F>
  void visit(F&& f) const {
    visit_kind(*this, f);
  }
  template <class Self, class F>
  static void visit_kind([[maybe_unused]] Self& self, [[maybe_unused]] F& f) {
    if constexpr (kHasMtp) {
      if (self.kind_ == DrafterKind::mtp) f(self.mtp, std::type_identity<MtpLayer<C, B>>());
    }
    if constexpr (kHasDspark) {
      if (self.kind_ == DrafterKind::dspark) {
        f(self.dspark, std::type_identity<DsparkDrafter<C, B>>());
      }
    }
  }

  DrafterKind kind_ = DrafterKind::none;
};

}  // namespace ds4::inline v0_1
