// Training: the optimizers' steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <ds4/kernels/adamw.hpp>
#include <ds4/kernels/muon.hpp>
#include <ds4/kernels/simd/training/operations/products.hpp>
#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/optimizers.hpp>
#include <ds4/kernels/simd/training/table.hpp>

namespace ds4::inline v0_1::simd::training {

/// AdamW and Muon; see ReferenceTraining. Training derives from this and from Tasks.
template <class Training>
class OptimizerOperations {
 public:
  ///@{
  /// The operations.
  void adamw_step(std::span<float> weights, std::span<const float> gradient, std::span<float> mean,
                  std::span<float> mean_square, std::size_t step, const AdamWOptions& options) {
    const auto bias = [&](double beta) { return 1.0 - std::pow(beta, static_cast<double>(step)); };
    const double kept = 1.0 - options.learning_rate * options.weight_decay;
    const AdamWStep values{static_cast<float>(options.beta1),
                           static_cast<float>(options.beta2),
                           static_cast<float>(kept),
                           static_cast<float>(options.learning_rate / bias(options.beta1)),
                           static_cast<float>(std::sqrt(bias(options.beta2))),
                           static_cast<float>(options.epsilon)};
    tasks().by_values(weights.size(), [&](std::size_t begin, std::size_t count) {
      kernels().adamw_step(weights.data() + begin, gradient.data() + begin, mean.data() + begin,
                           mean_square.data() + begin, count, values);
    });
  }
  void muon_steps(std::span<const MuonTarget<float>> targets, const MuonOptions& options) {
    std::vector<const MuonTarget<float>*> small;  // not worth a fork for each product
    for (const MuonTarget<float>& target : targets) {
      constexpr std::size_t kLarge = std::size_t{1} << 26;
      if (target.weights.size() * std::min(target.rows, target.cols) < kLarge) {
        small.push_back(&target);
      } else {
        muon_step(target, options);
      }
    }
    const std::size_t lanes = std::min(tasks().threads(), small.size());
    while (alone_->size() < lanes) alone_->push_back(Training({1, &kernels()}));
    tasks().run(lanes, 0, [&](std::size_t lane, float*) {
      for (std::size_t i = lane; i < small.size(); i += lanes) {
        (*alone_)[lane].muon_step(*small[i], options);
      }
    });
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }

  void muon_step(const MuonTarget<float>& target, const MuonOptions& options) {
    const auto [weights, gradient, momentum, rows, cols] = target;
    const std::size_t size = rows * cols;
    const bool tall = rows > cols;  // products of the smaller side are cheaper
    Workers::Scratch scratch = tasks().scratch();
    float* const update = scratch.array(size);
    combine(momentum.data(), 1.0, gradient.data(), options.momentum, size);
    tasks().copy(update, gradient.data(), size);
    combine(update, options.momentum, momentum.data(), 1.0, size);
    float* const X = tall ? scratch.array(size) : update;
    if (tall) transpose(X, update, rows, cols);
    const bool any = orthogonalise(X, std::min(rows, cols), std::max(rows, cols));
    if (!any) {
      tasks().zero(update, size);
    } else if (tall) {
      transpose(update, X, cols, rows);
    }
    const auto longer = static_cast<double>(std::max(rows, cols));
    const double rate = options.learning_rate * options.scale * std::sqrt(longer);
    combine(weights.data(), -rate, update, 1.0 - options.learning_rate * options.weight_decay,
            size);
  }

  // y = a x + b y.
  void combine(float* y, double a, const float* x, double b, std::size_t n) {
    tasks().by_values(n, [&](std::size_t begin, std::size_t count) {
      kernels().combine(y + begin, static_cast<float>(a), x + begin, static_cast<float>(b), count);
    });
  }
  void transpose(float* to, const float* from, std::size_t rows, std::size_t cols) {
    tasks().by_rows(rows, cols, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().transpose(to, from, rows, cols, begin, end);
    });
  }

  // The rounds of detail::orthogonalised for X [n, m], n <= m, in place; false if X is 0.
  bool orthogonalise(float* X, std::size_t n, std::size_t m) {
    const double norm = std::sqrt(tasks().sum_of_squares(X, n * m));
    if (!(norm > 0.0)) return false;
    combine(X, 0.0, X, 1.0 / norm, n * m);
    Workers::Scratch scratch = tasks().scratch();
    float* const A = scratch.array(n * n);
    float* const B = scratch.array(n * n);
    float* const panels = scratch.array(kernels().panels_size(n, m));
    for (const auto& c : kMuonRounds) {
      tasks().linear(A, n, X, m, X, n, n, m);  // X X^T
      tasks().linear(B, n, A, n, A, n, n, n);  // A A, A being symmetric
      combine(B, c[1], A, c[2], n * n);
      for (std::size_t i = 0; i < n; ++i) B[i * n + i] += static_cast<float>(c[0]);
      pack_rows(tasks(), panels, X, n, m);  // X may then be written over
      multiply(tasks(), {X, m, B, n, panels, n, m, n, false});
    }
    return true;
  }

  // Handles of one thread, each for matrices of its own.
  std::shared_ptr<std::vector<Training>> alone_ = std::make_shared<std::vector<Training>>();
};

}  // namespace ds4::inline v0_1::simd::training
