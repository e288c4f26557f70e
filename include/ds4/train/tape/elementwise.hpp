// Norms, rotations, activations, sums and rows, on a tape.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/train/tape/recorder.hpp>
#include <ds4/train/tape/weights.hpp>

namespace ds4::inline v0_1::tape {

/// Operations of an activation.
inline constexpr std::size_t kSwigluCost = 8;

/// What works on values or rows alone, for a Backend that derives from this and TapeRecorder; see
/// ds4::ops.
template <class Backend, class T>
class ElementwiseOperations {
 public:
  ///@{
  /// The operations.
  template <std::size_t N, std::size_t D, class W>
  void embed(RowsView<T, N, D> x, std::span<const std::int32_t> ids, const W& w) {
    const std::size_t S = ids.size();
    recorder().compute({.weight = w.value}, [=](auto& kernels) {
      kernels.embed(x.data(), ids.data(), w.value, S, N, D);
    });
    recorder().record_from(x, [=, this](const T* dx) {
      if (w.gradient == nullptr) return;
      recorder().compute({.elementwise = S * N * D}, [=](auto& kernels) {
        kernels.embed_backward(w.gradient, dx, ids.data(), S, N, D);
      });
    });
  }

  template <std::size_t... E>
  void take_rows(RowsView<T, E...> y, RowsView<const T, E...> x,
                 std::span<const std::int32_t> rows) {
    constexpr std::size_t kWidth = (E * ... * 1);
    recorder().compute({}, [=](auto& kernels) {
      kernels.take_rows(y.data(), x.data(), rows.data(), rows.size(), kWidth);
    });
    recorder().record_from(y, [=, this](const T* dy) {
      T* const dx = recorder().sum_at(x);
      recorder().compute({.elementwise = rows.size() * kWidth}, [=](auto& kernels) {
        kernels.take_rows_backward(dx, dy, rows.data(), rows.size(), kWidth);
      });
    });
  }

  template <std::size_t Width>
  void rms_norm(RowsView<T, Width> y, RowsView<const T, Width> x,
                const TrainedParameter<T, Width>& weight, double eps) {
    norm_rows<Width>(y, x, weight.value, weight.gradient, eps);
  }
  template <std::size_t... E>
  void rms_norm(RowsView<T, E...> y, RowsView<const T, E...> x, double eps) {
    constexpr std::size_t kWidth = std::array<std::size_t, sizeof...(E)>{E...}.back();
    norm_rows<kWidth>(y, x, static_cast<const T*>(nullptr), static_cast<T*>(nullptr), eps);
  }

  template <std::size_t Pairs>
  void rotary_table(RotaryTable<T, Pairs> table, std::size_t first, std::size_t step,
                    const std::array<double, Pairs>& inv_freq) {
    const std::size_t S = table.cos.extent(0);
    recorder().compute({.elementwise = 3 * S * Pairs}, [&](auto& kernels) {
      kernels.rotary_table(table.cos.data(), table.sin.data(), first, step, S, inv_freq.data(),
                           Pairs);
    });
  }

  template <std::size_t H, std::size_t d, std::size_t Pairs>
  void rotate(RowsView<T, H, d> x, const RotaryTable<T, Pairs>& table, bool inverse) {
    const auto turn = [=, this](T* values, bool back) {
      const std::size_t S = x.extent(0);
      recorder().compute({.elementwise = 6 * S * H * Pairs}, [=](auto& kernels) {
        kernels.rotate(values, table.cos.data(), table.sin.data(), S, H, d, Pairs, back);
      });
    };
    turn(x.data(), inverse);
    recorder().record([=, this] {
      if (T* const dx = recorder().tape().gradient(x.data())) turn(dx, !inverse);
    });
  }

  template <std::size_t F>
  void swiglu(RowsView<T, F> gate, RowsView<const T, F> up, double limit) {
    const T* const before = recorder().kept_copy(gate);
    const std::size_t n = gate.size();
    recorder().compute({.elementwise = kSwigluCost * n}, [=](auto& kernels) {
      kernels.swiglu(gate.data(), before, up.data(), n, limit);
    });
    recorder().record_from(gate, [=, this](const T* dy) {
      T* const dup = recorder().sum_at(up);
      T* const dgate = recorder().sum_at(gate);
      recorder().compute({.elementwise = 2 * kSwigluCost * n}, [=](auto& kernels) {
        kernels.swiglu_backward(dgate, dup, dy, before, up.data(), n, limit);
      });
    });
  }

  template <std::size_t D>
  void add(RowsView<T, D> y, RowsView<const T, D> x) {
    const auto add_values = [=, this](T* to, const T* from) {
      recorder().compute({.elementwise = x.size()},
                         [=](auto& kernels) { kernels.add(to, from, x.size()); });
    };
    add_values(y.data(), x.data());
    recorder().record([=, this] {
      const T* const dy = recorder().tape().gradient(y.data());
      if (dy == nullptr) return;
      const auto [dx, set] = recorder().target(x);
      if (set) {
        recorder().copy(dx, dy, x.size());
      } else if (dx != nullptr) {
        add_values(dx, dy);
      }
    });
  }
  ///@}

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }

  template <std::size_t Width, std::size_t... E>
  void norm_rows(RowsView<T, E...> y, RowsView<const T, E...> x, const T* weight, T* gradient,
                 double eps) {
    const std::size_t rows = x.size() / Width;
    const T* const from = y.data() == x.data() ? recorder().kept_copy(y) : x.data();
    const std::size_t steps = weight != nullptr ? 4 : 3;
    recorder().compute({.elementwise = steps * x.size()}, [=](auto& kernels) {
      kernels.rms_norm(y.data(), from, weight, rows, Width, eps);
    });
    recorder().record_from(y, [=, this](const T* dy) {
      T* const dx = recorder().sum_at(x);
      recorder().compute({.elementwise = 8 * x.size()}, [=](auto& kernels) {
        kernels.rms_norm_backward(dx, gradient, dy, from, weight, rows, Width, eps);
      });
    });
  }
};

}  // namespace ds4::inline v0_1::tape
