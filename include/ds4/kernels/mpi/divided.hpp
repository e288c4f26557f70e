// Results of which each rank has its own columns so far, and how they become whole.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <ds4/kernels/division.hpp>
#include <ds4/kernels/mpi/ranks.hpp>

namespace ds4::inline v0_1::mpi {

/// Values [S, cols] in the memory of the whole, of which this rank has those of its part of the
/// columns.
template <class T>
struct Divided {
  ///@{
  /// See above.
  T* data = nullptr;
  std::size_t rows = 0;
  Division columns;
  ///@}
  /// Something is sure to need all of it: it is gathered along with the next that is needed.
  bool is_wanted = true;

  /// Whether its memory has some of these bytes.
  bool overlaps(const void* begin, std::size_t bytes) const {
    const auto* first = reinterpret_cast<const std::byte*>(data);
    const auto* other = static_cast<const std::byte*>(begin);
    return other < first + rows * columns.rows * sizeof(T) && first < other + bytes;
  }
};

/// The divided results of a pass. Each lane has its own list of them, all alike; what they send and
/// receive is in memory that the lanes share.
template <class T>
class DividedResults {
 public:
  /// Of these ranks; none is there.
  explicit DividedResults(std::shared_ptr<Ranks> ranks)
      : ranks_(std::move(ranks)), buffer_(std::make_shared<std::vector<T>>()) {}

  /// The one that has some of these bytes, or null.
  Divided<T>* find(const void* begin, std::size_t bytes) {
    for (Divided<T>& result : results_) {
      if (result.overlaps(begin, bytes)) return &result;
    }
    return nullptr;
  }
  /// One that is in this memory from now on.
  void add(const Divided<T>& result) {
    forget(result.data, result.rows * result.columns.rows * sizeof(T));
    results_.push_back(result);
  }
  /// Something else is in this memory from now on.
  void forget(const void* begin, std::size_t bytes) {
    std::erase_if(results_,
                  [&](const Divided<T>& result) { return result.overlaps(begin, bytes); });
  }

  /// All ranks get all of the results that have some of these bytes, and along with them of those
  /// of as many rows that are wanted. `lane` is a backend's.
  template <class Lane>
  void complete(Lane& lane, const void* begin, std::size_t bytes) {
    while (const Divided<T>* needed = find(begin, bytes)) {
      const std::size_t S = needed->rows;
      std::vector<Divided<T>> all;
      std::erase_if(results_, [&](const Divided<T>& result) {
        const bool goes = result.overlaps(begin, bytes) || (result.is_wanted && result.rows == S);
        if (goes && result.rows == S) all.push_back(result);
        return goes && result.rows == S;
      });
      gather(lane, all, S);
    }
  }

 private:
  /// Values that are sent and received at once, about: what takes more goes by rows.
  static constexpr std::size_t kMostValues = std::size_t{1} << 22;

  template <class Lane>
  void gather(Lane& lane, const std::vector<Divided<T>>& all, std::size_t S) {
    if (S == 0) return;
    const std::size_t R = ranks_->size();
    std::vector<std::size_t> width(R);  // values of a row that each rank has
    std::size_t row_values = 0;
    for (std::size_t r = 0; r < R; ++r) {
      for (const Divided<T>& result : all) width[r] += result.columns.part(r, R).size();
      row_values += width[r];
    }
    const std::size_t most =
        std::max<std::size_t>(1, kMostValues / std::max<std::size_t>(row_values, 1));
    const bool in_place = S == 1 && all.size() == 1;
    for (std::size_t first = 0; first < S; first += most) {
      const std::size_t rows = std::min(most, S - first);
      std::vector<int> counts(R);
      std::vector<int> offsets(R);
      int total = 0;
      for (std::size_t r = 0; r < R; ++r) {
        offsets[r] = total;
        counts[r] = static_cast<int>(rows * width[r]);
        total += counts[r];
      }
      if (in_place) {
        lane.wait_for_all();
        if (lane.is_leader()) ranks_->gather(all[0].data, counts, offsets);
        lane.wait_for_all();
        return;
      }
      if (lane.is_leader() && buffer_->size() < static_cast<std::size_t>(total)) {
        buffer_->resize(static_cast<std::size_t>(total));
      }
      lane.wait_for_all();
      // Of each rank in turn: its values of the first row, one result after another; of the next.
      const auto for_row = [&](std::size_t r, std::size_t row, auto&& copy) {
        T* at = buffer_->data() + static_cast<std::size_t>(offsets[r]) + row * width[r];
        for (const Divided<T>& result : all) {
          const Division::Part part = result.columns.part(r, R);
          copy(at, result.data + (first + row) * result.columns.rows + part.begin, part.size());
          at += part.size();
        }
      };
      each(lane, rows, [&](std::size_t row) {
        for_row(ranks_->rank(), row,
                [](T* packed, const T* own, std::size_t n) { std::copy_n(own, n, packed); });
      });
      lane.wait_for_all();
      if (lane.is_leader()) ranks_->gather(buffer_->data(), counts, offsets);
      lane.wait_for_all();
      each(lane, rows, [&](std::size_t row) {
        for (std::size_t r = 0; r < R; ++r) {
          if (r == ranks_->rank()) continue;
          for_row(r, row, [](const T* packed, T* others, std::size_t n) {
            std::copy_n(packed, n, others);
          });
        }
      });
      lane.wait_for_all();
    }
  }

  template <class Lane, class F>
  static void each(Lane& lane, std::size_t n, F&& f) {
    if constexpr (requires { lane.for_part(n, f); }) {
      lane.for_part(n, f);
    } else {
      for (std::size_t i = 0; i < n; ++i) f(i);
    }
  }

  std::shared_ptr<Ranks> ranks_;
  std::shared_ptr<std::vector<T>> buffer_;
  std::vector<Divided<T>> results_;
};

}  // namespace ds4::inline v0_1::mpi
