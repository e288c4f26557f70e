// Attention, on a tape.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/cost.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/training.hpp>
#include <ds4/train/tape/recorder.hpp>
#include <ds4/train/tape/weights.hpp>

namespace ds4::inline v0_1::tape {

/// Of attention: so many operations for each value of a key that a head sees, and for each score.
constexpr OperationCost attention_cost(const AttentionShape& shape, std::size_t of_value,
                                       std::size_t of_score) {
  std::size_t keys = shape.whole ? shape.S * (shape.W + shape.keys)  // of all queries together
                                 : detail::sum_of_entries(shape.S, 1, shape.W);
  if (shape.kind != AttentionKind::sliding) {
    const std::size_t most = shape.kind == AttentionKind::csa ? shape.top_k : shape.S;
    keys += detail::sum_of_entries(shape.S, shape.ratio, most);
  }
  const std::size_t scores = shape.H * keys;
  return {.elementwise = of_score * scores,
          .products = of_value * scores * shape.d,
          .component = Component::attention};
}
/// Of the operation; `received`: with the attention that each pick is given.
constexpr OperationCost attend_cost(const AttentionShape& shape, bool received) {
  return attention_cost(shape, 4, received ? 6 : 5);
}
/// Of its way back: the scores again, the gradient of the weights, and those of query, key, value.
constexpr OperationCost attend_backward_cost(const AttentionShape& shape) {
  return attention_cost(shape, 10, 10);
}

/// Attention, for a Backend that derives from this and TapeRecorder; see ds4::ops.
template <class Backend, class T>
class AttentionOperations {
 public:
  /// The operation.
  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class Source>
  void attend(RowsView<T, H, d> out, RowsView<const T, H, d> q, const TrainedParameter<T, H>& sink,
              RowsView<const std::int32_t, TopK> picks, std::span<const Segment> segments,
              std::span<const Source> sources) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const std::size_t first = segments[i].first;
      const std::size_t count = segments[i].count;
      RowsView<const T, d> window = sources[i].window->rows();
      RowsView<const T, d> entries(nullptr, 0);
      if constexpr (Kind != AttentionKind::sliding) entries = sources[i].entries->rows();
      if (segments[i].block) {
        entries = window;
        window = sources[i].window->before();
        window = window.rows(window.extent(0) - std::min(window.extent(0), W),
                             std::min(window.extent(0), W));
      }
      const std::int32_t* own = nullptr;
      if constexpr (Kind == AttentionKind::csa) own = picks.rows(first, count).data();
      const AttentionShape shape{.kind = Kind,
                                 .S = count,
                                 .H = H,
                                 .d = d,
                                 .W = segments[i].block ? window.extent(0) : W,
                                 .ratio = Ratio,
                                 .top_k = TopK,
                                 .keys = entries.extent(0),
                                 .whole = segments[i].block};
      const auto q_rows = q.rows(first, count);
      const auto out_rows = out.rows(first, count);
      T* const received = received_by(own);
      recorder().compute(attend_cost(shape, received != nullptr), [=](auto& kernels) {
        kernels.attend(out_rows.data(), received, q_rows.data(), sink.value, window.data(),
                       entries.data(), own, shape);
      });
      recorder().record([=, this] {
        const T* const dout = recorder().tape().gradient(out_rows.data());
        if (dout == nullptr) return;
        T* const dentries = entries.extent(0) > 0 ? recorder().sum_at(entries) : nullptr;
        T* const dwindow = recorder().sum_at(window);
        T* const dq = recorder().sum_at(q_rows);
        recorder().compute(attend_backward_cost(shape), [=](auto& kernels) {
          kernels.attend_backward(dq, sink.gradient, dwindow, dentries, dout, q_rows.data(),
                                  sink.value, window.data(), entries.data(), own, shape);
        });
      });
    }
  }

  /// The attention that these picks [S, TopK] receive when they are next attended to is to be kept
  /// there.
  void keep_received(const std::int32_t* picks, T* received) {
    received_.emplace_back(picks, received);
  }

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }

  // Where the attention that these picks receive is wanted, or null.
  T* received_by(const std::int32_t* picks) {
    if (!recorder().recording()) return nullptr;
    for (auto at = received_.begin(); at != received_.end(); ++at) {
      if (at->first != picks) continue;
      T* const received = at->second;
      received_.erase(at);
      return received;
    }
    return nullptr;
  }

  std::vector<std::pair<const std::int32_t*, T*>> received_;
};

}  // namespace ds4::inline v0_1::tape
