// Routed experts: tokens are gathered by expert, and each lane computes its share of every expert's
// rows.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/expert_copies.hpp>
#include <ds4/kernels/simd/linear.hpp>
#include <ds4/kernels/simd/scratch.hpp>

namespace ds4::inline v0_1::simd {

/// The operation of the experts. As in ds4::ops; Backend derives from this, from Lane and from
/// WeightBinding.
template <class Backend>
class ExpertOperations {
 public:
  /// Differs from the reference: tokens are gathered by expert, each lane computes its share of
  /// every expert's rows, and adds its own channels of y in the order of the experts.
  template <std::size_t D, std::size_t k, class Expert>
  void routed_experts(RowsView<float, D> y, RowsView<const float, D> x,
                      RowsView<const std::int32_t, k> picks, RowsView<const float, k> weights,
                      const std::vector<Expert>& experts, double limit) {
    routed_rows(y.data(), x, picks, weights, experts, limit, 0, [](float*, std::size_t) {});
  }
  /// The same with the rows that are there of the experts' weights. `y` points at the first channel
  /// that w2 has, first_hidden is the number of w1's and w3's first row; complete(hidden, places)
  /// fills in the other values of hidden [places, F], on all lanes.
  template <std::size_t D, std::size_t k, class Expert, class Complete>
  void routed_rows(float* y, RowsView<const float, D> x, RowsView<const std::int32_t, k> picks,
                   RowsView<const float, k> weights, const std::vector<Expert>& experts,
                   double limit, std::size_t first_hidden, Complete&& complete) {
    constexpr std::size_t F = Expert::F;
    const std::size_t S = x.extent(0);
    const std::size_t places = S * k;
    Scratch memory = lane().scratch();
    const auto [order, picked] = gather(memory, picks.flat(), experts);
    if (experts[0].w1.panels == nullptr) copies_.use(lane(), memory, picked);
    for (std::size_t step = 0; step < kStepsAhead; ++step) ask_for(picked, step);

    std::array<bool, kLayouts> inputs_used{};
    std::array<bool, kLayouts> hidden_used{};
    for (const PickedExpert& expert : picked) {
      inputs_used[layout_index(expert.w1)] = inputs_used[layout_index(expert.w3)] = true;
      hidden_used[layout_index(expert.w2)] = true;
    }
    auto* hidden = memory.shared<float>(places * F);
    const EachLayout inputs = lay_out(memory, inputs_used, places, D,
                                      [&](std::size_t i) { return x[order[i] / k].data(); });

    auto& blocks = *memory.own<LinearScratch>(1);
    {
      const auto rows = lane().part(experts[0].w1.stored.rows, experts[0].w1.panel_rows);
      float* up = memory.own<float>(S * rows.size());  // all tokens may pick one expert
      for (std::size_t i = 0; i < picked.size(); ++i) {
        const PickedExpert& expert = picked[i];
        ask_for(picked, i + kStepsAhead);
        float* gate = hidden + expert.first * F + first_hidden + rows.begin;
        lane().kernels().linear(gate, F, {&expert.w1, rows.begin, rows.end},
                                tokens_of(expert, expert.w1, inputs), blocks);
        lane().kernels().linear(up, rows.size(), {&expert.w3, rows.begin, rows.end},
                                tokens_of(expert, expert.w3, inputs), blocks);
        for (std::size_t t = 0; t < expert.count; ++t) {
          lane().kernels().swiglu(gate + t * F, up + t * rows.size(), rows.size(),
                                  static_cast<float>(limit));
        }
      }
    }
    lane().wait_for_all();
    complete(hidden, places);
    const EachLayout activated =
        lay_out(memory, hidden_used, places, F, [&](std::size_t i) { return hidden + i * F; });
    {
      const auto rows = lane().part(experts[0].w2.stored.rows, experts[0].w2.panel_rows);
      float* out = memory.own<float>(S * rows.size());
      for (std::size_t s = 0; s < S && rows.size() > 0; ++s) {
        std::fill_n(y + s * D + rows.begin, rows.size(), 0.0f);
      }
      for (std::size_t i = 0; i < picked.size(); ++i) {
        const PickedExpert& expert = picked[i];
        ask_for(picked, picked.size() + i + kStepsAhead);
        lane().kernels().linear(out, rows.size(), {&expert.w2, rows.begin, rows.end},
                                tokens_of(expert, expert.w2, activated), blocks);
        for (std::size_t t = 0; t < expert.count; ++t) {
          const std::size_t place = order[expert.first + t];
          lane().kernels().add_scaled(y + place / k * D + rows.begin, out + t * rows.size(),
                                      weights.flat()[place], rows.size());
        }
      }
    }
    lane().wait_for_all();
  }

 protected:
  /// Another team has copies of its own.
  void leave_team() { copies_ = {}; }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }

  /// Places (token * k + choice) sorted by expert, and the experts that are picked, in their order.
  struct Gathered {
    const std::size_t* order;
    std::span<PickedExpert> picked;
  };
  template <class Expert>
  static Gathered gather(Scratch& memory, std::span<const std::int32_t> picks,
                         const std::vector<Expert>& experts) {
    // first[e] is where expert e's places begin.
    auto* first = memory.own<std::size_t>(experts.size() + 1);
    auto* order = memory.own<std::size_t>(picks.size());
    std::fill_n(first, experts.size() + 1, 0);
    for (const std::int32_t e : picks) ++first[static_cast<std::size_t>(e) + 1];
    std::partial_sum(first, first + experts.size() + 1, first);
    auto* next = memory.own<std::size_t>(experts.size());
    std::copy_n(first, experts.size(), next);
    for (std::size_t p = 0; p < picks.size(); ++p) {
      order[next[static_cast<std::size_t>(picks[p])]++] = p;
    }
    auto* picked = memory.own<PickedExpert>(std::min(experts.size(), picks.size()));
    std::size_t n = 0;
    for (std::size_t e = 0; e < experts.size(); ++e) {
      if (first[e + 1] == first[e]) continue;
      const Expert& expert = experts[e];
      picked[n++] = {expert.w1, expert.w2, expert.w3, first[e], first[e + 1] - first[e]};
    }
    return {order, {picked, n}};
  }

  /// What is not in memory is asked for this many steps before its own. Step i < n: the first
  /// products of expert i of n; then the last ones.
  static constexpr std::size_t kStepsAhead = 8;
  void ask_for(std::span<const PickedExpert> picked, std::size_t step) {
    if (step >= 2 * picked.size() || step % lane().lanes() != lane().index()) return;
    const PickedExpert& expert = picked[step % picked.size()];
    if (expert.w1.panels != nullptr) return;  // it is kept, or has a copy
    if (step >= picked.size()) return lane().start_reading(expert.w2);
    lane().start_reading(expert.w1);
    lane().start_reading(expert.w3);
  }

  /// Storages may differ from weight to weight: places are laid out in every way that one wants.
  struct LaidOut {
    std::byte* data;
    std::size_t stride;
  };
  using EachLayout = std::array<LaidOut, kLayouts>;
  std::size_t layout_index(const ProductMatrix& w) {
    return static_cast<std::size_t>(lane().kernels().layout_for(w.stored.dtype, lane().exact()));
  }
  template <class Values>
  EachLayout lay_out(Scratch& memory, const std::array<bool, kLayouts>& used, std::size_t places,
                     std::size_t K, Values&& values) {
    EachLayout laid_out{};
    for (std::size_t l = 0; l < kLayouts; ++l) {
      if (!used[l]) continue;
      const auto layout = static_cast<Layout>(l);
      const std::size_t stride = lane().kernels().token_stride(layout, K);
      laid_out[l] = {memory.shared<std::byte>(places * stride), stride};
      lane().for_part(places, [&](std::size_t i) {
        lane().kernels().lay_out(layout, laid_out[l].data + i * stride, values(i), K, 1, K);
      });
    }
    lane().wait_for_all();
    return laid_out;
  }
  /// The expert's tokens as its weight w wants them.
  Tokens tokens_of(const PickedExpert& expert, const ProductMatrix& w, const EachLayout& laid_out) {
    const std::size_t layout = layout_index(w);
    const auto [data, stride] = laid_out[layout];
    return {data + expert.first * stride, stride, expert.count, static_cast<Layout>(layout)};
  }

  ExpertCopies copies_;
};

}  // namespace ds4::inline v0_1::simd
