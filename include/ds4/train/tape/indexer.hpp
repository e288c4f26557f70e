// The lightning indexer and its own loss, on a tape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/cost.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/training.hpp>
#include <ds4/train/tape/recorder.hpp>
#include <ds4/train/tape/weights.hpp>

namespace ds4::inline v0_1::tape {

/// The indexer, for a Backend that derives from this, AttentionOperations and TapeRecorder; see
/// ds4::ops.
template <class Backend, class T>
class IndexerOperations {
 public:
  ///@{
  /// The operations.
  template <std::size_t... E>
  RowsView<const T, E...> detached(RowsView<const T, E...> x) {
    if (recorder().loss_weights().indexer == 0.0) return x;  // nothing will come back
    const RowsView<T, E...> copy(recorder().tape().allocate(x.size(), false), x.extent(0));
    recorder().copy(copy.data(), x.data(), x.size());
    return copy;
  }

  template <std::size_t Ratio, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_entries(RowsView<std::int32_t, TopK> picks, RowsView<const T, nI, dI> q,
                    RowsView<const T, nI> weights, std::span<const Segment> segments,
                    std::span<const TapeLog<T, dI>* const> keys) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const std::size_t first = segments[i].first;
      const std::size_t count = segments[i].count;
      const IndexShape shape{count, nI, dI, Ratio, TopK};
      const auto rows = keys[i]->rows();
      const auto q_rows = q.rows(first, count);
      const auto w_rows = weights.rows(first, count);
      std::int32_t* const own = picks.rows(first, count).data();
      recorder().compute(cost(shape, count, 2, 3), [=](auto& kernels) {
        kernels.pick_entries(own, q_rows.data(), w_rows.data(), rows.data(), shape);
      });
      const double weight = recorder().loss_weights().indexer;
      if (!recorder().recording() || weight == 0.0 || rows.extent(0) == 0) continue;
      T* const received = recorder().tape().allocate(count * TopK, false);
      recorder().keep_received(own, received);
      recorder().record([=, this] {
        T* const dkeys = recorder().sum_at(rows);
        T* const dweights = recorder().sum_at(w_rows);
        T* const dq = recorder().sum_at(q_rows);
        // The scores of the picks, again for their gradients, and the gradients of both sides.
        recorder().compute(cost(shape, TopK, 8, 8), [=, this](auto& kernels) {
          recorder().losses().indexer +=
              kernels.index_loss(dq, dweights, dkeys, received, own, q_rows.data(), w_rows.data(),
                                 rows.data(), shape, weight);
        });
      });
    }
  }
  ///@}

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }

  // Of so many operations for each value of a key, and for each score, of at most so many entries.
  static constexpr OperationCost cost(const IndexShape& shape, std::size_t most,
                                      std::size_t of_value, std::size_t of_score) {
    const std::size_t scores = shape.nI * detail::sum_of_entries(shape.S, shape.ratio, most);
    return {.elementwise = of_score * scores,
            .products = of_value * scores * shape.dI,
            .component = Component::indexer};
  }
};

}  // namespace ds4::inline v0_1::tape
