// The typed sequence of layers: a prefix, then the repeated (HCA, CSA) pair, then the rest.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>

namespace ds4::inline v0_1 {

/// How a configuration's layers fall into prefix, repeated pairs and suffix: the pairs are the
/// longest run of learned-routed (HCA, CSA) neighbours. Flash: 3 + 2 * 20 + 0; Pro: 3 + 2 * 29 + 0.
struct Schedule {
  ///@{
  /// Layers before the pairs, pairs, layers behind them.
  std::size_t prefix;
  std::size_t pairs;
  std::size_t suffix;
  /// How many layers go together from the start of a pair, 2, or from a layer in none, 1.
  constexpr std::size_t together(std::size_t layer) const {
    return layer >= prefix && layer < prefix + 2 * pairs ? 2 : 1;
  }
  friend constexpr bool operator==(const Schedule&, const Schedule&) = default;
  ///@}
};

/// The schedule of a configuration, an instance of its type or a ConfigValues; without such a pair
/// it is all prefix.
template <class Config>
constexpr Schedule schedule_of(const Config& config) {
  const std::size_t L = config.num_hidden_layers;
  const auto is = [&](std::size_t layer, std::size_t ratio) {
    return config.compress_ratios[layer] == ratio && layer >= config.num_hash_layers;
  };
  Schedule best{L, 0, 0};
  for (std::size_t first = 0; first < L; ++first) {
    std::size_t pairs = 0;
    while (first + 2 * pairs + 1 < L &&
           is(first + 2 * pairs, config.compress_rates.heavily_compressed_attention) &&
           is(first + 2 * pairs + 1, config.compress_rates.compressed_sparse_attention)) {
      ++pairs;
    }
    if (pairs > best.pairs) best = {first, pairs, L - first - 2 * pairs};
  }
  return best;
}
/// The same for a configuration type.
template <ModelConfig C>
consteval Schedule schedule() {
  static_assert(checked_config<C>());
  return schedule_of(C{});
}

/// One value per layer of C, of type Of::element<Ratio, Router>: the layers themselves, or what a
/// sequence keeps for each. The prefix and the suffix are tuples, one type per layer; the pairs are
/// two types for all of them, looped over at run time.
template <ModelConfig C, class Of>
class LayerSequence {
  template <std::size_t Layer>
  using At = typename Of::template element<C::compress_ratios[Layer], router_kind<C>(Layer)>;
  template <std::size_t First, std::size_t... I>
  static std::tuple<At<First + I>...> slice(std::index_sequence<I...>);

 public:
  /// The configuration's.
  static constexpr Schedule kSchedule = schedule<C>();

  /// The repeated pair.
  struct Pair {
    ///@{
    /// The two layers' elements.
    typename Of::template element<C::compress_rates.heavily_compressed_attention,
                                  RouterKind::learned>
        hca;
    typename Of::template element<C::compress_rates.compressed_sparse_attention,
                                  RouterKind::learned>
        csa;
    ///@}
  };

  ///@{
  /// The elements, in the order of the layers.
  decltype(slice<0>(std::make_index_sequence<kSchedule.prefix>())) prefix;
  std::vector<Pair> pairs = std::vector<Pair>(kSchedule.pairs);
  decltype(slice<C::num_hidden_layers - kSchedule.suffix>(
      std::make_index_sequence<kSchedule.suffix>())) suffix;
  ///@}

  ///@{
  /// Calls f(layer number, layer) in order.
  template <class F>
  void for_each(F&& f) {
    walk([&](std::size_t layer, auto member) { f(layer, member(*this)); });
  }
  template <class F>
  void for_each(F&& f) const {
    walk([&](std::size_t layer, auto member) { f(layer, member(*this)); });
  }
  ///@}

  /// Calls f(layer number, layer, its counterparts) in order, where the counterparts are pointers
  /// to the same layer's elements in `others`, e.g. one state per sequence. They lie in scratch
  /// memory of the backend.
  template <class B, class Other, class F>
  void for_each_with(B& backend, std::span<Other* const> others, F&& f) const {
    walk([&](std::size_t layer, auto member) {
      using Element = std::remove_reference_t<decltype(member(*others[0]))>;
      auto scratch = backend.scratch();
      auto counterparts = scratch.template array<Element*>(others.size());
      for (std::size_t i = 0; i < others.size(); ++i) counterparts[i] = &member(*others[i]);
      f(layer, member(*this), std::span<Element* const>(counterparts));
    });
  }

 private:
  // Visits each layer number with a function that picks that layer's element from any sequence.
  template <class F>
  static void walk(F&& f) {
    const auto tuple_part = [&]<std::size_t... I>([[maybe_unused]] std::size_t first,
                                                  [[maybe_unused]] auto part,
                                                  std::index_sequence<I...>) {
      // nvcc does not expand a pack inside a lambda of a fold.
      [[maybe_unused]] const auto visit =
          [&]<std::size_t J>(std::integral_constant<std::size_t, J>) {
            f(first + J, [&](auto& sequence) -> auto& { return std::get<J>(part(sequence)); });
          };
      (visit(std::integral_constant<std::size_t, I>()), ...);
    };
    tuple_part(
        0, [](auto& sequence) -> auto& { return sequence.prefix; },
        std::make_index_sequence<kSchedule.prefix>());
    for (std::size_t p = 0; p < kSchedule.pairs; ++p) {
      const std::size_t layer = kSchedule.prefix + 2 * p;
      f(layer, [p](auto& sequence) -> auto& { return sequence.pairs[p].hca; });
      f(layer + 1, [p](auto& sequence) -> auto& { return sequence.pairs[p].csa; });
    }
    tuple_part(
        kSchedule.prefix + 2 * kSchedule.pairs,
        [](auto& sequence) -> auto& { return sequence.suffix; },
        std::make_index_sequence<kSchedule.suffix>());
  }
};

}  // namespace ds4::inline v0_1
