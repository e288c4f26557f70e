// Muon: momentum whose matrices are orthogonalised by Newton-Schulz rounds.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>

#include <Eigen/Core>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// Settings of Muon. Source: model.md 16.3; arXiv 2606.19348.
struct MuonOptions {
  double learning_rate = 1e-3;  ///< of this step
  double momentum = 0.95;       ///< what is kept of the gradients' sum from step to step
  double weight_decay = 0.1;    ///< the share of the weights that a step of learning rate 1 takes
  double scale = 0.18;          ///< of the update's root mean square, which is that of AdamW's
};

/// A matrix of weights [rows, cols] and what a step of it takes; see muon_step.
template <class T>
struct MuonTarget {
  ///@{
  /// All of the same size, row by row.
  std::span<T> weights;
  std::span<const T> gradient;
  std::span<T> momentum;
  ///@}
  std::size_t rows;  ///< of the matrix
  std::size_t cols;  ///< of the matrix
};

namespace detail {

template <class T>
using TrainMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The nearest matrix with orthonormal rows or columns, nearly: singular values that are not next
/// to nothing beside the largest come close to 1. X <- a X + (b A + c A^2) X with A = X X^T, from X
/// of Frobenius norm 1: eight rounds that pull values up fast, two that settle them.
template <class T>
TrainMatrix<T> orthogonalised(TrainMatrix<T> X) {
  using Coefficients = std::array<double, 3>;
  constexpr Coefficients kFast{3.4445, -4.7750, 2.0315};
  constexpr Coefficients kSettling{2.0, -1.5, 0.5};
  constexpr int kFastRounds = 8;
  constexpr int kRounds = 10;
  const bool tall = X.rows() > X.cols();  // products of the smaller side are cheaper
  if (tall) X = TrainMatrix<T>(X.transpose());
  const T norm = X.norm();
  if (!(norm > T(0)))
    return TrainMatrix<T>::Zero(tall ? X.cols() : X.rows(), tall ? X.rows() : X.cols());
  X /= norm;
  TrainMatrix<T> A;
  TrainMatrix<T> B;
  for (int round = 0; round < kRounds; ++round) {
    const Coefficients& c = round < kFastRounds ? kFast : kSettling;
    A.noalias() = X * X.transpose();
    B.noalias() = static_cast<T>(c[2]) * A * A;
    B += static_cast<T>(c[1]) * A;
    A.noalias() = B * X;
    X = static_cast<T>(c[0]) * X + A;
  }
  if (tall) X = TrainMatrix<T>(X.transpose());
  return X;
}

}  // namespace detail

/// One step: moves a matrix of weights [rows, cols] by its orthogonalised Nesterov momentum, times
/// scale * sqrt(max(rows, cols)). `momentum` is the optimizer's state, zeros before the first step;
/// a gradient that is zero throughout moves nothing but the decay.
template <class T>
void muon_step(const MuonTarget<T>& target, const MuonOptions& options = {}) {
  const auto [weights, gradient, momentum, rows, cols] = target;
  using Matrix = detail::TrainMatrix<T>;
  const auto n = static_cast<Eigen::Index>(rows);
  const auto m = static_cast<Eigen::Index>(cols);
  const auto mu = static_cast<T>(options.momentum);
  const Eigen::Map<const Matrix> g(gradient.data(), n, m);
  Eigen::Map<Matrix> sum(momentum.data(), n, m);
  sum = mu * sum + g;
  const Matrix update = detail::orthogonalised<T>(g + mu * sum);
  const auto size = static_cast<double>(std::max(rows, cols));
  Eigen::Map<Matrix> w(weights.data(), n, m);
  w = static_cast<T>(1.0 - options.learning_rate * options.weight_decay) * w -
      static_cast<T>(options.learning_rate * options.scale * std::sqrt(size)) * update;
}

}  // namespace ds4::inline v0_1
