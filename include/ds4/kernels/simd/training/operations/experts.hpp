// Training: the routed experts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>

#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/product.hpp>
#include <ds4/kernels/simd/training/table.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// The experts; see ReferenceTraining, from which this differs: a token's outputs are added in the
/// order of its choices. Training derives from this and from Tasks.
template <class Training>
class ExpertOperations {
 public:
  ///@{
  /// The operations.
  void routed_experts(float* y, const ExpertRecord<float>& record, const float* x,
                      const std::int32_t* picks, const float* weights,
                      std::span<const ExpertMatrices<const float>> experts,
                      const ExpertShape& shape, double limit) {
    const auto [S, k, E, D, F] = shape;
    sort_places(record, picks, shape);
    Workers::Scratch scratch = tasks().scratch();
    float* const outs = scratch.array(S * k * D);  // by place
    for_expert_groups(shape, [&](std::size_t first, std::size_t last) {
      Workers::Scratch group = tasks().scratch();
      const ExpertPanels panels = pack_experts(group, experts, first, last, shape, true);
      const std::span<const ExpertTask> pieces = expert_tasks(group, record.begin, first, last);
      tasks().run(pieces.size(), kExpertRows * (2 * D + F), [&](std::size_t i, float* memory) {
        const auto [e, begin, n] = pieces[i];
        float* const in = memory;
        float* const out = in + kExpertRows * D;
        float* const hidden = out + kExpertRows * D;
        float* const gate = record.gate + begin * F;
        float* const up = record.up + begin * F;
        kernels().gather_rows(in, {x, D, record.places + begin, static_cast<std::uint32_t>(k)}, n,
                              D);
        kernels().multiply({gate, F, in, D, panels.w1(e), n, F, D, false}, 0, n, 0, F);
        kernels().multiply({up, F, in, D, panels.w3(e), n, F, D, false}, 0, n, 0, F);
        kernels().swiglu(hidden, gate, up, n * F, static_cast<float>(limit));
        kernels().multiply({out, D, hidden, F, panels.w2(e), n, D, F, false}, 0, n, 0, D);
        kernels().scatter_rows(outs, out, record.places + begin, n, D);
      });
    });
    tasks().by_rows(S, k * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().sum_copies(y, outs, weights, k, D, begin, end);
    });
  }
  void routed_experts_backward(float* dx, float* dweights,
                               std::span<const ExpertMatrices<float>> gradients, const float* dy,
                               const ExpertRecord<const float>& record, const float* x,
                               const float* weights,
                               std::span<const ExpertMatrices<const float>> experts,
                               const ExpertShape& shape, double limit) {
    const auto [S, k, E, D, F] = shape;
    Workers::Scratch scratch = tasks().scratch();
    float* const dins = scratch.array(S * k * D);  // by place
    float* const hidden = scratch.array(S * k * F);
    float* const dgate = scratch.array(S * k * F);
    float* const dup = scratch.array(S * k * F);
    for_expert_groups(shape, [&](std::size_t first, std::size_t last) {
      Workers::Scratch group = tasks().scratch();
      const ExpertPanels panels = pack_experts(group, experts, first, last, shape, false);
      const std::span<const ExpertTask> pieces = expert_tasks(group, record.begin, first, last);
      tasks().run(pieces.size(), kExpertRows * (2 * D + F), [&](std::size_t i, float* memory) {
        const auto [e, begin, n] = pieces[i];
        const std::int32_t* const places = record.places + begin;
        float* const dout = memory;
        float* const din = dout + kExpertRows * D;
        float* const dhidden = din + kExpertRows * D;
        const std::size_t at = begin * F;
        kernels().gather_rows(dout, {dy, D, places, static_cast<std::uint32_t>(k)}, n, D);
        kernels().multiply({dhidden, F, dout, D, panels.w2(e), n, F, D, false}, 0, n, 0, F);
        kernels().expert_activation_backward(dgate + at, dup + at, hidden + at, dhidden, dweights,
                                             record.gate + at, record.up + at, weights, places, n,
                                             F, static_cast<float>(limit));
        kernels().multiply({din, D, dgate + at, F, panels.w1(e), n, D, F, false}, 0, n, 0, D);
        kernels().multiply({din, D, dup + at, F, panels.w3(e), n, D, F, true}, 0, n, 0, D);
        kernels().scatter_rows(dins, din, places, n, D);
      });
    });
    tasks().by_rows(S, k * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().add_copies(dx, dins, nullptr, k, D, begin, end);
    });
    // The weights' gradients, by expert, matrix and block of the matrix.
    const std::size_t blocks = std::max(Tasks::parts(F, kOuterRows) * Tasks::parts(D, kOuterCols),
                                        Tasks::parts(D, kOuterRows) * Tasks::parts(F, kOuterCols));
    tasks().run(
        E * 3 * blocks, kernels().transposed_scratch(), [&](std::size_t task, float* memory) {
          const std::size_t e = task / (3 * blocks);
          const std::size_t matrix = task / blocks % 3;
          const auto begin = static_cast<std::size_t>(record.begin[e]);
          const std::size_t n = static_cast<std::size_t>(record.begin[e + 1]) - begin;
          const auto of_places = [&](const float* rows) {
            return RowList{rows, D, record.places + begin, static_cast<std::uint32_t>(k)};
          };
          const auto block = [&](float* dw, const RowList& left, const RowList& right) {
            const std::size_t rows = left.stride;
            const std::size_t cols = right.stride;
            const std::size_t row = task % blocks / Tasks::parts(cols, kOuterCols) * kOuterRows;
            const std::size_t col = task % blocks % Tasks::parts(cols, kOuterCols) * kOuterCols;
            if (dw == nullptr || n == 0 || row >= rows) return;
            kernels().multiply_transposed({dw, cols, left, right, true}, row,
                                          std::min(kOuterRows, rows - row), col,
                                          std::min(kOuterCols, cols - col), 0, n, memory);
          };
          if (matrix == 0) block(gradients[e].w1, {dgate + begin * F, F}, of_places(x));
          if (matrix == 1) block(gradients[e].w2, of_places(dy), {hidden + begin * F, F});
          if (matrix == 2) block(gradients[e].w3, {dup + begin * F, F}, of_places(x));
        });
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }

  static constexpr std::size_t kExpertRows = 96;  // places of a task

  static void sort_places(const ExpertRecord<float>& record, const std::int32_t* picks,
                          const ExpertShape& shape) {
    const std::size_t places = shape.S * shape.k;
    std::int32_t* const begin = record.begin;
    std::fill_n(begin, shape.E + 1, 0);
    for (std::size_t i = 0; i < places; ++i) ++begin[picks[i] + 1];
    std::partial_sum(begin, begin + shape.E + 1, begin);
    for (std::size_t i = 0; i < places; ++i) {  // moves every begin to the next one's
      record.places[begin[picks[i]]++] = static_cast<std::int32_t>(i);
    }
    std::copy_backward(begin, begin + shape.E, begin + shape.E + 1);
    begin[0] = 0;
  }

  // f(first, last) for groups of experts whose weights in panels take a bounded amount of memory.
  template <class F>
  static void for_expert_groups(const ExpertShape& shape, F&& f) {
    constexpr std::size_t kPanelValues = std::size_t{1} << 24;
    const std::size_t own = 3 * shape.F * shape.D;
    const std::size_t step = std::max<std::size_t>(1, kPanelValues / std::max<std::size_t>(1, own));
    for (std::size_t e = 0; e < shape.E; e += step) f(e, std::min(shape.E, e + step));
  }

  // The weights of the experts from `first` on, in panels.
  struct ExpertPanels {
    float* panels;
    std::size_t first;
    std::size_t size[3];  // of an expert's w1, w2 and w3
    float* w1(std::size_t e) const { return panels + (e - first) * (size[0] + size[1] + size[2]); }
    float* w2(std::size_t e) const { return w1(e) + size[0]; }
    float* w3(std::size_t e) const { return w2(e) + size[1]; }
  };
  ExpertPanels pack_experts(Workers::Scratch& scratch,
                            std::span<const ExpertMatrices<const float>> experts, std::size_t first,
                            std::size_t last, const ExpertShape& shape, bool transposed) {
    const std::size_t D = shape.D;
    const std::size_t F = shape.F;
    const auto size = [&](std::size_t outs, std::size_t ins) {
      return transposed ? kernels().panels_size(ins, outs) : kernels().panels_size(outs, ins);
    };
    ExpertPanels panels{nullptr, first, {size(F, D), size(D, F), size(F, D)}};
    panels.panels =
        scratch.array((last - first) * (panels.size[0] + panels.size[1] + panels.size[2]));
    const auto pack = [&](float* to, const float* w, std::size_t outs, std::size_t ins) {
      if (transposed) {
        kernels().pack_transposed(to, w, ins, outs, ins, 0,
                                  Tasks::parts(outs, kernels().tile_cols));
      } else {
        kernels().pack_rows(to, w, ins, ins, outs, 0, outs);
      }
    };
    tasks().run(3 * (last - first), 0, [&](std::size_t task, float*) {
      const std::size_t e = first + task / 3;
      if (task % 3 == 0) pack(panels.w1(e), experts[e].w1, F, D);
      if (task % 3 == 1) pack(panels.w2(e), experts[e].w2, D, F);
      if (task % 3 == 2) pack(panels.w3(e), experts[e].w3, F, D);
    });
    return panels;
  }

  // At most kExpertRows of an expert's places.
  struct ExpertTask {
    std::size_t expert;
    std::size_t begin;
    std::size_t count;
  };
  static std::span<const ExpertTask> expert_tasks(Workers::Scratch& scratch,
                                                  const std::int32_t* begin, std::size_t first,
                                                  std::size_t last) {
    const auto place = [&](std::size_t e) { return static_cast<std::size_t>(begin[e]); };
    std::size_t count = 0;
    for (std::size_t e = first; e < last; ++e)
      count += Tasks::parts(place(e + 1) - place(e), kExpertRows);
    ExpertTask* const pieces = scratch.array<ExpertTask>(count);
    std::size_t task = 0;
    for (std::size_t e = first; e < last; ++e) {
      for (std::size_t at = place(e); at < place(e + 1); at += kExpertRows) {
        pieces[task++] = {e, at, std::min(kExpertRows, place(e + 1) - at)};
      }
    }
    return {pieces, count};
  }
};

}  // namespace ds4::inline v0_1::simd::training
