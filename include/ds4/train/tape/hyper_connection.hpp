// The residual streams and their hyper-connections, on a tape.
#pragma once

#include <cassert>
#include <cstddef>

#include <ds4/core/tensor.hpp>
#include <ds4/train/tape/recorder.hpp>
#include <ds4/train/tape/weights.hpp>

namespace ds4::inline v0_1::tape {

/// What reads and writes the streams, for a Backend that derives from this and TapeRecorder; see
/// ds4::ops.
template <class Backend, class T>
class HyperConnectionOperations {
  template <std::size_t... E>
  using Parameter = TrainedParameter<T, E...>;

 public:
  ///@{
  /// The operations.
  template <std::size_t N>
  void hyper_connection_weights(RowsView<T, N> pre, RowsView<T, N> post, RowsView<T, N, N> comb,
                                RowsView<const T, (2 + N) * N> u,
                                const Parameter<(2 + N) * N>& base, const Parameter<3>& scale,
                                std::size_t iters, double eps) {
    const std::size_t S = u.extent(0);
    const std::size_t cost = S * (4 * (2 + N) * N + 4 * iters * N * N);
    recorder().compute({.elementwise = cost}, [=](auto& kernels) {
      kernels.hyper_connection_weights(pre.data(), post.data(), comb.data(), u.data(), base.value,
                                       scale.value, S, N, iters, eps);
    });
    recorder().record([=, this] {
      const auto dpre = recorder().tape().take_gradient(pre.data());
      const auto dpost = recorder().tape().take_gradient(post.data());
      const auto dcomb = recorder().tape().take_gradient(comb.data());
      if (dpre.get() == nullptr) return;
      T* const du = recorder().sum_at(u);
      recorder().compute({.elementwise = 3 * cost}, [&](auto& kernels) {  // the rounds run again
        kernels.hyper_connection_weights_backward(du, base.gradient, scale.gradient, dpre.get(),
                                                  dpost.get(), dcomb.get(), u.data(), base.value,
                                                  scale.value, S, N, iters, eps);
      });
    });
  }

  template <std::size_t N>
  void hyper_head_weights(RowsView<T, N> pre, RowsView<const T, N> u, const Parameter<N>& base,
                          const Parameter<1>& scale, double eps) {
    const std::size_t S = u.extent(0);
    recorder().compute({.elementwise = 5 * S * N}, [=](auto& kernels) {
      kernels.hyper_head_weights(pre.data(), u.data(), base.value, scale.value, S, N, eps);
    });
    recorder().record_from(pre, [=, this](const T* dpre) {
      T* const du = recorder().sum_at(u);
      recorder().compute({.elementwise = 10 * S * N}, [=](auto& kernels) {
        kernels.hyper_head_weights_backward(du, base.gradient, scale.gradient, dpre, u.data(),
                                            base.value, scale.value, S, N);
      });
    });
  }

  // The model that a drafter reads stays as it is: there is no way back.
  template <std::size_t M, std::size_t N, std::size_t D>
  void mean_streams(RowsView<T, M, D> y, std::size_t slot, RowsView<const T, N, D> X) {
    assert(!recorder().recording());
    const std::size_t S = X.extent(0);
    recorder().compute({.elementwise = S * N * D}, [=](auto& kernels) {
      kernels.mean_streams(y.data() + slot * D, X.data(), S, M, N, D);
    });
  }

  template <std::size_t N, std::size_t D>
  void collapse_streams(RowsView<T, D> c, RowsView<const T, N, D> X, RowsView<const T, N> pre) {
    const std::size_t S = X.extent(0);
    recorder().compute({.elementwise = 2 * S * N * D}, [=](auto& kernels) {
      kernels.collapse_streams(c.data(), X.data(), pre.data(), S, N, D);
    });
    recorder().record_from(c, [=, this](const T* dc) {
      T* const dpre = recorder().sum_at(pre);
      T* const dX = recorder().sum_at(X);
      recorder().compute({.elementwise = 4 * S * N * D}, [=](auto& kernels) {
        kernels.collapse_streams_backward(dX, dpre, dc, X.data(), pre.data(), S, N, D);
      });
    });
  }

  template <std::size_t N, std::size_t D>
  void mix_streams(RowsView<T, N, D> X, RowsView<const T, N> post, RowsView<const T, N, N> comb,
                   RowsView<const T, D> y) {
    const std::size_t S = X.extent(0);
    T* const before =
        recorder().recording() ? recorder().tape().allocate(X.size(), false) : nullptr;
    recorder().compute({.elementwise = 2 * S * (N + 1) * N * D}, [=](auto& kernels) {
      kernels.mix_streams(X.data(), before, post.data(), comb.data(), y.data(), S, N, D);
    });
    recorder().record([=, this] {
      if (T* const dX = recorder().tape().gradient(X.data())) {
        T* const dy = recorder().sum_at(y);
        T* const dcomb = recorder().sum_at(comb);
        T* const dpost = recorder().sum_at(post);
        recorder().compute({.elementwise = 4 * S * (N + 1) * N * D}, [=](auto& kernels) {
          kernels.mix_streams_backward(dX, dpost, dcomb, dy, before, post.data(), comb.data(),
                                       y.data(), S, N, D);
        });
      }
      recorder().copy(X.data(), before, X.size());  // what the layer's earlier operations read
    });
  }

  template <std::size_t N, std::size_t D>
  void add_to_streams(RowsView<T, N, D> X, RowsView<const T, D> y) {
    const std::size_t S = y.extent(0);
    recorder().compute({.elementwise = S * N * D},
                       [=](auto& kernels) { kernels.add_to_streams(X.data(), y.data(), S, N, D); });
    recorder().record([=, this] {
      const T* const dX = recorder().tape().gradient(X.data());
      if (dX == nullptr) return;
      T* const dy = recorder().sum_at(y);
      recorder().compute({.elementwise = S * N * D},
                         [=](auto& kernels) { kernels.add_to_streams_backward(dy, dX, S, N, D); });
    });
  }
  ///@}

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::tape
