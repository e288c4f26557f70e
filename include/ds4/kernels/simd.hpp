// The SIMD backend: kernels for one instruction set, run by a team of threads.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/simd/expert_cache.hpp>
#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/kernels/simd/logs.hpp>
#include <ds4/kernels/simd/memory.hpp>
#include <ds4/kernels/simd/sizes.hpp>
#include <ds4/kernels/simd/team.hpp>
#include <ds4/kernels/simd/top_k.hpp>
#include <ds4/kernels/simd/weight_pool.hpp>

namespace ds4::inline v0_1 {

/// Settings of the SIMD backend.
struct SimdOptions {
  std::size_t threads = 0;  ///< 0: one per processor
  /// Activations and state rows in float32 throughout. Otherwise, where weights are stored in less
  /// than float32, state rows are BF16, and the activations of BF16 matrices are rounded to BF16
  /// where the machine multiplies BF16.
  bool exact = false;
  /// Bytes of weights to keep in memory, in panels: first those that every token reads, then the
  /// experts that are used most. The others are multiplied where the files are mapped, and read
  /// ahead of their use: they may take more than the machine's memory. Unless told, all weights are
  /// kept if they take at most half of the memory that is available, and none otherwise.
  std::optional<std::size_t> memory_budget = {};
  /// The instruction set; the one that this translation unit is compiled for, unless a program
  /// chooses another at run time.
  const simd::Kernels* kernels = &simd::kernels<simd::Native>();
};

/// A CPU backend in float32 with vectors and threads. A copy is a handle to the same team; only one
/// pass at a time may run on a team. Results do not depend on the number of threads, on how a
/// sequence is split into passes, nor on the other sequences of a pass.
class Simd {
 public:
  ///@{
  /// See Backend.
  using Scalar = float;
  using Element = float;
  using Index = std::int32_t;
  /// A weight, [kRows, kCols].
  template <std::size_t Rows, std::size_t Cols>
  struct Matrix : simd::ProductMatrix {
    ///@{
    /// Its extents.
    static constexpr std::size_t kRows = Rows;
    static constexpr std::size_t kCols = Cols;
    ///@}
  };
  template <std::size_t... E>
  using Parameter = Tensor<float, E...>;
  template <std::size_t V, std::size_t K>
  using HashTable = Tensor<std::int32_t, V, K>;
  template <std::size_t Width>
  using RowLog = simd::TailLog<Width>;
  template <std::size_t Width>
  using KeyLog = simd::KeyLog<Width>;
  template <std::size_t Width>
  using IndexLog = simd::IndexLog<Width>;
  template <class Expert>
  using Experts = std::vector<Expert>;
  ///@}

  /// Starts the team of threads.
  explicit Simd(const SimdOptions& options = {})
      : kernels_(options.kernels),
        exact_(options.exact),
        budget_(options.memory_budget),
        pool_(std::make_shared<simd::WeightPool>()),
        mapped_(std::make_shared<MappedWeights>()),
        team_(std::make_shared<simd::Team>(options.threads)),
        shared_(team_->shared()),
        own_(team_->own(0)) {}

  /// Memory for as long as this object lives: the same for all lanes that ask for the same.
  class Scratch {
   public:
    /// Takes memory where the lane has come to.
    explicit Scratch(Simd& lane) : lane_(lane), shared_(lane.shared_), own_(lane.own_) {}
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
      lane_.shared_ = shared_;
      lane_.own_ = own_;
    }

    ///@{
    /// Activations [S, E...], and indices of this shape.
    template <std::size_t... E>
    RowsView<float, E...> rows(std::size_t S) {
      return {shared<float>(S * (E * ... * 1)), S};
    }
    template <std::size_t... E>
    RowsView<std::int32_t, E...> indices(std::size_t S) {
      return {shared<std::int32_t>(S * (E * ... * 1)), S};
    }
    ///@}
    /// This lane's own array.
    template <class Item>
    std::span<Item> array(std::size_t count) {
      auto* items = reinterpret_cast<Item*>(lane_.own_.allocate(count * sizeof(Item)));
      std::uninitialized_value_construct_n(items, count);
      return {items, count};
    }
    /// The host's indices where the backend can read them.
    std::span<const std::int32_t> upload(std::span<const std::int32_t> host) { return host; }
    /// Rows for a result that `deliver` brings to the host's memory.
    template <std::size_t... E>
    RowsView<float, E...> result(RowsView<float, E...> host) {
      return host;
    }
    ///@{
    /// An array that is the same for all lanes, and this lane's own; not initialised.
    template <class Item>
    Item* shared(std::size_t count) {
      return reinterpret_cast<Item*>(lane_.shared_.allocate(count * sizeof(Item)));
    }
    template <class Item>
    Item* own(std::size_t count) {
      return reinterpret_cast<Item*>(lane_.own_.allocate(count * sizeof(Item)));
    }
    ///@}

   private:
    Simd& lane_;
    simd::Arena::Cursor shared_;
    simd::Arena::Cursor own_;
  };
  /// Memory for a part of the pass.
  Scratch scratch() { return Scratch(*this); }
  /// Memory that the team keeps from pass to pass: what the largest pass so far took.
  std::size_t scratch_bytes() const { return team_->scratch_bytes(); }

  /// Calls f(lane) on every thread of the team.
  template <class F>
  void run(F&& f) {
    if (mapped_->any) {
      const std::size_t waits = simd::pages_waited_for();
      mapped_->cold = waits != std::exchange(mapped_->waits, waits);
    }
    team_->run([&](std::size_t lane, std::size_t lanes) {
      Simd backend(*this);
      backend.lane_ = lane;
      backend.lanes_ = lanes;
      backend.shared_ = simd::Arena::Cursor(team_->shared());
      backend.own_ = simd::Arena::Cursor(team_->own(lane));
      f(backend);
    });
  }
  ///@{
  /// The leader is one lane; here all lanes wait for each other.
  bool is_leader() const { return lane_ == 0; }
  void wait_for_all() {
    if (lanes_ > 1) team_->barrier().wait();
  }
  ///@}

  /// Brings a result to the host's memory: one from `result` is there already.
  template <class Item>
  void deliver(std::span<Item> host, std::span<const Item> values) {
    if (is_leader() && host.data() != values.data()) std::ranges::copy(values, host.begin());
  }
  /// Calls f on one lane with the values where the host can read them.
  template <class Item, class F>
  void show(std::span<const Item> values, F&& f) {
    if (is_leader()) f(values);
    wait_for_all();
  }
  /// Marks a part of the pass, named by all arguments, for as long as what it returns lives.
  template <class... Parts>
  int region(const Parts&...) {
    return 0;
  }

  ///@{
  /// Of the team, and of the kernels.
  std::size_t threads() const { return team_->threads(); }
  const char* instruction_set() const { return kernels_->name; }

  /// Before weights are bound: how many bytes they are in all, and whether the system tells which
  /// of them are in memory.
  void expect_weights(std::size_t bytes, bool tells_residency) {
    constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();
    if (!budget_) budget_ = bytes <= simd::available_memory() / 2 ? kAll : 0;
    if (*budget_ > bytes + bytes / 8) budget_ = kAll;  // panels are padded
    mapped_->tells_residency = tells_residency;
    pool_->expect(std::min(*budget_, bytes));
  }
  ///@}

  /// A weight of the model from a checkpoint's.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind(const StoredMatrix& stored) {
    if (stored.dtype != DType::f32) reduced_ = true;
    Matrix<Rows, Cols> matrix;
    matrix.stored = stored;
    // A matrix of few rows is cut so that every lane has some.
    matrix.panel_rows =
        std::min(simd::kPanelRows, (Rows + team_->threads() - 1) / team_->threads());
    const std::size_t bytes = kernels_->panel_bytes(stored);
    const std::size_t growth = pool_->growth(bytes);
    if (bytes > budget_.value_or(0) || growth > *budget_) {
      mapped_->any = true;
      return matrix;
    }
    if (*budget_ != std::numeric_limits<std::size_t>::max()) *budget_ -= growth;
    std::byte* panels = pool_->allocate(bytes);
    kernels_->store_in_panels(panels, stored, matrix.panel_rows, 0, Rows);
    matrix.panels = panels;
    simd::release_mapped(stored.values, value_bytes(stored));
    return matrix;
  }
  /// A weight of a routed expert: kept if all are; otherwise the experts share what the others
  /// leave of the budget.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_expert(const StoredMatrix& stored) {
    const std::optional<std::size_t> budget = budget_;
    if (budget != std::numeric_limits<std::size_t>::max()) budget_ = 0;
    const auto matrix = bind<Rows, Cols>(stored);
    budget_ = budget;
    return matrix;
  }
  /// All experts of a layer are bound.
  template <class Expert>
  void bind_experts(Experts<Expert>&) {}
  /// A weight whose rows are looked up, not multiplied.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_rows(const StoredMatrix& stored) {
    Matrix<Rows, Cols> matrix;
    matrix.stored = stored;
    return matrix;
  }

  /// These bytes of mapped files are wanted soon. Does nothing while all that is wanted has turned
  /// out to be in memory.
  void read_ahead(std::span<const std::span<const std::byte>> ranges) {
    if (!is_leader() || !mapped_->any || !mapped_->cold) return;
    for (const auto& range : ranges) {
      simd::start_reading(range.data(), range.size(), mapped_->tells_residency);
    }
  }

  ///@{
  /// The operations, as in ds4::ops.
  template <std::size_t N, std::size_t D, class W>
  void embed(RowsView<float, N, D> x, std::span<const std::int32_t> ids, const W& embed) {
    for_part(ids.size(), 1, [&](std::size_t s) {
      embed.stored.decode_row(static_cast<std::size_t>(ids[s]), x[s].data());
      for (std::size_t n = 1; n < N; ++n) std::copy_n(x[s].data(), D, x[s][n].data());
    });
    wait_for_all();
  }

  template <std::size_t... E>
  void take_rows(RowsView<float, E...> y, RowsView<const float, E...> x,
                 std::span<const std::int32_t> rows) {
    for_part(rows.size(), 1, [&](std::size_t i) {
      std::ranges::copy(x.rows(static_cast<std::size_t>(rows[i]), 1).flat(), y.rows(i, 1).data());
    });
    wait_for_all();
  }

  template <std::size_t Width>
  void append(RowLog<Width>& log, RowsView<const float, Width> rows) {
    if (is_leader()) log.append(rows);
    wait_for_all();
  }
  template <std::size_t Width>
  void append(KeyLog<Width>& log, RowsView<const float, Width> rows) {
    if (is_leader()) {
      for (std::size_t i = 0; i < rows.extent(0); ++i) {
        std::byte* row = log.add(bf16_rows());
        if (log.bf16()) {
          kernels_->store_bf16(reinterpret_cast<std::uint16_t*>(row), rows[i].data(), Width);
        } else {
          std::memcpy(row, rows[i].data(), Width * sizeof(float));
        }
      }
    }
    wait_for_all();
  }
  template <std::size_t Width>
  void append(IndexLog<Width>& log, RowsView<const float, Width> rows) {
    if (is_leader()) {
      for (std::size_t i = 0; i < rows.extent(0); ++i) {
        std::byte* block = log.add(bf16_rows());
        kernels_->store_key(block, (log.end() - 1) % simd::kKeyBlock, rows[i].data(), Width,
                            log.bf16());
      }
    }
    wait_for_all();
  }
  template <std::size_t Width>
  void read_rows(RowsView<float, Width> rows, const RowLog<Width>& log, std::size_t first) {
    for_part(rows.extent(0), 1,
             [&](std::size_t i) { std::copy_n(log.row(first + i), Width, rows[i].data()); });
    wait_for_all();
  }
  template <std::size_t Width>
  void forget_before(RowLog<Width>& log, std::size_t row) {
    if (is_leader()) log.forget_before(row);
  }
  template <std::size_t Width>
  void forget_before(KeyLog<Width>& log, std::size_t row) {
    if (is_leader()) log.forget_before(row);
  }

  template <std::size_t N, std::size_t K, class W>
  void linear(RowsView<float, N> y, RowsView<const float, K> x, const W& w) {
    Scratch memory(*this);
    const simd::Tokens tokens = lay_out(memory, w.stored.dtype, x.data(), x.extent(0), K);
    multiply(memory, y.data(), N, w, tokens);
    wait_for_all();
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  void grouped_linear(RowsView<float, G, N> y, RowsView<const float, G, K> x, const W& w) {
    Scratch memory(*this);
    const std::size_t S = x.extent(0);
    const simd::Tokens all = lay_out(memory, w.stored.dtype, x.data(), S * G, K);
    auto& blocks = *memory.own<simd::LinearScratch>(1);
    const Part rows = part(G * N, w.panel_rows);
    for (std::size_t g = rows.begin / N; g * N < rows.end; ++g) {
      const simd::RowRange range{&w, std::max(rows.begin, g * N), std::min(rows.end, (g + 1) * N)};
      const simd::Tokens tokens{all.data + g * all.stride, G * all.stride, S, all.layout};
      kernels_->linear(y.data() + range.begin, G * N, range, tokens, blocks);
    }
    wait_for_all();
  }

  template <std::size_t K>
  void rms_norm(RowsView<float, K> y, RowsView<const float, K> x, const Parameter<K>& weight,
                double eps) {
    for_part(x.extent(0), 1, [&](std::size_t s) {
      kernels_->rms_norm(y[s].data(), x[s].data(), weight.data(), K, static_cast<float>(eps));
    });
    wait_for_all();
  }
  template <std::size_t... E>
  void rms_norm(RowsView<float, E...> y, RowsView<const float, E...> x, double eps) {
    constexpr std::size_t K = std::array<std::size_t, sizeof...(E)>{E...}.back();
    for_part(x.size() / K, 1, [&](std::size_t i) {
      kernels_->rms_norm(y.data() + i * K, x.data() + i * K, nullptr, K, static_cast<float>(eps));
    });
    wait_for_all();
  }

  template <std::size_t Pairs>
  void rotary_table(RotaryTable<float, Pairs> table, std::size_t first, std::size_t step,
                    const std::array<double, Pairs>& inv_freq) {
    for_part(table.cos.extent(0), 1, [&](std::size_t s) {
      for (std::size_t i = 0; i < Pairs; ++i) {
        const double angle = static_cast<double>(first + s * step) * inv_freq[i];
        table.cos(s, i) = static_cast<float>(std::cos(angle));
        table.sin(s, i) = static_cast<float>(std::sin(angle));
      }
    });
    wait_for_all();
  }

  template <std::size_t H, std::size_t d, std::size_t Pairs>
  void rotate(RowsView<float, H, d> x, const RotaryTable<float, Pairs>& table, bool inverse) {
    for_part(x.extent(0) * H, 1, [&](std::size_t i) {
      const std::size_t s = i / H;
      kernels_->rotate_pairs(x.data() + i * d + (d - 2 * Pairs), table.cos[s].data(),
                             table.sin[s].data(), Pairs, inverse);
    });
    wait_for_all();
  }

  template <std::size_t N>
  void hyper_connection_weights(RowsView<float, N> pre, RowsView<float, N> post,
                                RowsView<float, N, N> comb, RowsView<const float, (2 + N) * N> u,
                                const Parameter<(2 + N) * N>& base, const Parameter<3>& scale,
                                std::size_t iters, double eps) {
    const float floor = static_cast<float>(eps);
    for_part(u.extent(0), 1, [&](std::size_t s) {
      for (std::size_t n = 0; n < N; ++n) {
        pre(s, n) = sigmoid(u(s, n) * scale[0] + base[n]) + floor;
        post(s, n) = 2.0f * sigmoid(u(s, N + n) * scale[1] + base[N + n]);
      }
      float* matrix = comb[s].data();
      for (std::size_t i = 0; i < N * N; ++i) {
        matrix[i] = u(s, 2 * N + i) * scale[2] + base[2 * N + i];
      }
      kernels_->sinkhorn(matrix, N, iters, floor);
    });
    wait_for_all();
  }

  template <std::size_t N>
  void hyper_head_weights(RowsView<float, N> pre, RowsView<const float, N> u,
                          const Parameter<N>& base, const Parameter<1>& scale, double eps) {
    for_part(u.extent(0), 1, [&](std::size_t s) {
      for (std::size_t n = 0; n < N; ++n) {
        pre(s, n) = sigmoid(u(s, n) * scale[0] + base[n]) + static_cast<float>(eps);
      }
    });
    wait_for_all();
  }

  template <std::size_t N, std::size_t D>
  void collapse_streams(RowsView<float, D> c, RowsView<const float, N, D> X,
                        RowsView<const float, N> pre) {
    for_part(X.extent(0), 1, [&](std::size_t s) {
      kernels_->collapse_streams(c[s].data(), X[s].data(), pre[s].data(), N, D);
    });
    wait_for_all();
  }

  template <std::size_t N, std::size_t D>
  void mix_streams(RowsView<float, N, D> X, RowsView<const float, N> post,
                   RowsView<const float, N, N> comb, RowsView<const float, D> y) {
    Scratch memory(*this);
    float* old = memory.own<float>(N * simd::kMaxLanes);
    // Channels are cut at multiples of a vector, so that each is computed alike on any cut.
    constexpr std::size_t kCut = 16 * simd::kMaxLanes;
    constexpr std::size_t kCuts = (D + kCut - 1) / kCut;
    for_part(X.extent(0) * kCuts, 1, [&](std::size_t i) {
      const std::size_t s = i / kCuts;
      const std::size_t begin = i % kCuts * kCut;
      kernels_->mix_streams(X[s].data(), post[s].data(), comb[s].data(), y[s].data(), old, N, D,
                            begin, std::min(begin + kCut, D));
    });
    wait_for_all();
  }

  template <std::size_t Ratio, bool Overlapping, std::size_t Width, std::size_t Projected>
  void pool_entries(RowsView<float, Width> entries, std::size_t first, const RowLog<Projected>& kv,
                    const RowLog<Projected>& gate, const Parameter<Ratio, Projected>& ape) {
    constexpr std::size_t kSlots = Overlapping ? 2 * Ratio : Ratio;
    for_part(entries.extent(0), 1, [&](std::size_t j) {
      std::array<const float*, kSlots> kvs;
      std::array<const float*, kSlots> gates;
      std::array<const float*, kSlots> apes;
      const std::size_t w = first + j;
      std::size_t slots = 0;
      const auto add = [&](std::size_t window, std::size_t offset) {
        for (std::size_t i = 0; i < Ratio; ++i, ++slots) {
          kvs[slots] = kv.row(window * Ratio + i) + offset;
          gates[slots] = gate.row(window * Ratio + i) + offset;
          apes[slots] = ape[i].data() + offset;
        }
      };
      if constexpr (Overlapping) {
        if (w > 0) add(w - 1, 0);
        add(w, Width);
      } else {
        add(w, 0);
      }
      kernels_->pool(entries[j].data(), kvs.data(), gates.data(), apes.data(), slots, Width);
    });
    wait_for_all();
  }

  template <std::size_t Ratio, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_entries(RowsView<std::int32_t, TopK> picks, RowsView<const float, nI, dI> q,
                    RowsView<const float, nI> weights, std::span<const Segment> segments,
                    std::span<const IndexLog<dI>* const> keys) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments[i];
      if (segment.count >= 4 * lanes_) {
        for_part(segment.count, 1, [&](std::size_t j) {
          const std::size_t s = segment.first + j;
          Scratch memory(*this);
          const simd::IndexQuery query = lay_out_query(memory, q[s], weights[s], *keys[i]);
          const std::size_t visible = (segment.position + j + 1) / Ratio;
          simd::TopK best(memory.own<simd::Candidate>(2 * TopK), TopK);
          score(best, query, *keys[i], nI, 0, visible);
          write_picks(picks[s], best);
        });
        continue;
      }
      for (std::size_t j = 0; j < segment.count; ++j) {  // the lanes share a query's entries
        const std::size_t s = segment.first + j;
        const std::size_t visible = (segment.position + j + 1) / Ratio;
        if (visible <= TopK) {
          if (is_leader()) {
            for (std::size_t e = 0; e < TopK; ++e) {
              picks(s, e) = e < visible ? static_cast<std::int32_t>(e) : -1;
            }
          }
          continue;
        }
        Scratch memory(*this);
        auto* counts = memory.shared<std::size_t>(lanes_);
        auto* buffers = memory.shared<simd::Candidate>(lanes_ * 2 * TopK);
        simd::Candidate* buffer = buffers + lane_ * 2 * TopK;
        const simd::IndexQuery query = lay_out_query(memory, q[s], weights[s], *keys[i]);
        const Part mine = part(visible, simd::kKeyBlock);
        simd::TopK best(buffer, TopK);
        score(best, query, *keys[i], nI, mine.begin, mine.end);
        counts[lane_] = best.finish().size();
        wait_for_all();
        if (is_leader()) {
          simd::TopK all(memory.own<simd::Candidate>(2 * TopK), TopK);
          for (std::size_t lane = 0; lane < lanes_; ++lane) {
            for (std::size_t c = 0; c < counts[lane]; ++c) all.add(buffers[lane * 2 * TopK + c]);
          }
          write_picks(picks[s], all);
        }
        wait_for_all();
      }
    }
    wait_for_all();
  }

  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class Source>
  void attend(RowsView<float, H, d> out, RowsView<const float, H, d> q, const Parameter<H>& sink,
              RowsView<const std::int32_t, TopK> picks, std::span<const Segment> segments,
              std::span<const Source> sources) {
    constexpr std::size_t kPadded =
        (d + 2 * simd::kMaxLanes - 1) / (2 * simd::kMaxLanes) * (2 * simd::kMaxLanes);
    const std::size_t S = q.extent(0);
    // The work is cut into (token, group of heads) pairs; a few tokens' groups are small enough
    // that every lane has one.
    const std::size_t group =
        std::clamp<std::size_t>(S * H / lanes_, 1, std::min(H, simd::kHeadGroup));
    const std::size_t groups = (H + group - 1) / group;
    const Part mine = part(S * groups, 1);
    Scratch memory(*this);
    const bool bf16 = !sources.empty() && sources[0].window->bf16();
    std::size_t longest = 0;
    for (const Segment& segment : segments) {
      longest = std::max(longest, segment.position + segment.count);
    }
    const std::size_t most =
        W + (Kind == AttentionKind::hca   ? longest / std::max<std::size_t>(Ratio, 1)
             : Kind == AttentionKind::csa ? TopK
                                          : 0);
    const auto keys = memory.own<const std::byte*>(most);
    const simd::AttentionScratch scratch{memory.own<float>(simd::kHeadGroup * simd::kKeyTile),
                                         memory.own<float>(H * kPadded), memory.own<float>(H),
                                         memory.own<float>(H),
                                         memory.own<std::byte>(H * kPadded * sizeof(float))};

    for (std::size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments[i];
      const std::size_t begin = std::max(mine.begin, segment.first * groups);
      const std::size_t end = std::min(mine.end, (segment.first + segment.count) * groups);
      for (std::size_t item = begin; item < end;) {
        const std::size_t s = item / groups;
        const std::size_t next = std::min(end, (s + 1) * groups);
        const std::size_t t = segment.position + (s - segment.first);
        std::size_t count = 0;
        for (std::size_t p = t + 1 - std::min(t + 1, W); p <= t; ++p) {
          keys[count++] = sources[i].window->row(p);
        }
        if constexpr (Kind == AttentionKind::hca) {
          for (std::size_t w = 0; w < (t + 1) / Ratio; ++w) {
            keys[count++] = sources[i].entries->row(w);
          }
        } else if constexpr (Kind == AttentionKind::csa) {
          for (const std::int32_t w : picks[s].flat()) {
            if (w >= 0) keys[count++] = sources[i].entries->row(static_cast<std::size_t>(w));
          }
        }
        const std::size_t head = item % groups * group;
        const std::size_t last = std::min(H, (next - s * groups) * group);
        kernels_->attend(out[s][head].data(), q[s][head].data(), sink.data() + head, keys, count,
                         last - head, d, bf16, exact_, scratch);
        item = next;
      }
    }
    wait_for_all();
  }

  template <std::size_t E, std::size_t k, std::size_t V>
  void route_by_hash(RowsView<std::int32_t, k> experts, RowsView<float, k> weights,
                     RowsView<const float, E> logits, std::span<const std::int32_t> ids,
                     const HashTable<V, k>& tid2eid, double scale) {
    for_part(ids.size(), 1, [&](std::size_t s) {
      std::ranges::copy(tid2eid[static_cast<std::size_t>(ids[s])].flat(), experts[s].data());
      weigh_experts(experts[s], weights[s], logits[s], scale);
    });
    wait_for_all();
  }

  template <std::size_t E, std::size_t k>
  void route_by_score(RowsView<std::int32_t, k> experts, RowsView<float, k> weights,
                      RowsView<const float, E> logits, const Parameter<E>& bias, double scale) {
    for_part(logits.extent(0), 1, [&](std::size_t s) {
      std::array<simd::Candidate, E> score;
      for (std::size_t e = 0; e < E; ++e) {
        score[e] = {sqrt_softplus(logits(s, e)) + bias[e], static_cast<std::int32_t>(e)};
      }
      std::partial_sort(score.begin(), score.begin() + k, score.end());
      for (std::size_t i = 0; i < k; ++i) experts(s, i) = score[i].entry;
      weigh_experts(experts[s], weights[s], logits[s], scale);
    });
    wait_for_all();
  }

  /// Differs from the reference: tokens are gathered by expert, each lane computes its share of
  /// every expert's rows, and adds its own channels of y in the order of the experts.
  template <std::size_t D, std::size_t k, class Expert>
  void routed_experts(RowsView<float, D> y, RowsView<const float, D> x,
                      RowsView<const std::int32_t, k> picks, RowsView<const float, k> weights,
                      const Experts<Expert>& experts, double limit) {
    constexpr std::size_t F = Expert::F;
    const std::size_t S = x.extent(0);
    const std::size_t places = S * k;
    Scratch memory(*this);

    // Places (token * k + choice) sorted by expert; first[e] is where expert e's begin.
    auto* first = memory.own<std::size_t>(experts.size() + 1);
    auto* order = memory.own<std::size_t>(places);
    std::fill_n(first, experts.size() + 1, 0);
    for (const std::int32_t e : picks.flat()) ++first[static_cast<std::size_t>(e) + 1];
    std::partial_sum(first, first + experts.size() + 1, first);
    auto* next = memory.own<std::size_t>(experts.size());
    std::copy_n(first, experts.size(), next);
    for (std::size_t p = 0; p < places; ++p) {
      order[next[static_cast<std::size_t>(picks.flat()[p])]++] = p;
    }

    // Storages may differ from weight to weight: places are laid out in every way that one wants.
    struct LaidOut {
      std::byte* data;
      std::size_t stride;
    };
    using EachLayout = std::array<LaidOut, simd::kLayouts>;
    const auto index = [&](const simd::ProductMatrix& w) {
      return static_cast<std::size_t>(kernels_->layout_for(w.stored.dtype, exact_));
    };
    // The experts that are picked, in their order.
    struct Picked {
      simd::ProductMatrix w1, w2, w3;
      std::size_t first;  // of its places
      std::size_t count;
    };
    const std::size_t most = std::min(experts.size(), places);
    auto* picked = memory.own<Picked>(most);
    std::size_t n = 0;
    for (std::size_t e = 0; e < experts.size(); ++e) {
      if (first[e + 1] == first[e]) continue;
      const Expert& expert = experts[e];
      picked[n++] = {expert.w1, expert.w2, expert.w3, first[e], first[e + 1] - first[e]};
    }
    // Step i < n: the first products of expert i; then the last ones. What is not in memory is
    // asked for kStepsAhead steps before.
    const bool mapped = experts[0].w1.panels == nullptr;
    const auto ask_for = [&](std::size_t step) {
      if (!mapped || step >= 2 * n || step % lanes_ != lane_) return;
      const Picked& expert = picked[step % n];
      if (expert.w1.panels != nullptr) return;  // it has a copy
      if (step >= n) return start_reading(expert.w2);
      start_reading(expert.w1);
      start_reading(expert.w3);
    };
    constexpr std::size_t kStepsAhead = 8;
    if (mapped) use_copies(memory, std::span(picked, n));
    for (std::size_t step = 0; step < kStepsAhead; ++step) ask_for(step);

    std::array<bool, simd::kLayouts> inputs_used{};
    std::array<bool, simd::kLayouts> hidden_used{};
    for (std::size_t i = 0; i < n; ++i) {
      inputs_used[index(picked[i].w1)] = inputs_used[index(picked[i].w3)] = true;
      hidden_used[index(picked[i].w2)] = true;
    }
    const auto lay_out_places = [&](const std::array<bool, simd::kLayouts>& used, std::size_t K,
                                    auto&& values) {
      EachLayout laid_out{};
      for (std::size_t l = 0; l < simd::kLayouts; ++l) {
        if (!used[l]) continue;
        const auto layout = static_cast<simd::Layout>(l);
        const std::size_t stride = kernels_->token_stride(layout, K);
        laid_out[l] = {memory.shared<std::byte>(places * stride), stride};
        for_part(places, 1, [&](std::size_t i) {
          kernels_->lay_out(layout, laid_out[l].data + i * stride, values(i), K, 1, K);
        });
      }
      wait_for_all();
      return laid_out;
    };
    const auto tokens_for = [&](const simd::ProductMatrix& w, const EachLayout& laid_out,
                                std::size_t begin, std::size_t count) {
      const auto [data, stride] = laid_out[index(w)];
      return simd::Tokens{data + begin * stride, stride, count,
                          static_cast<simd::Layout>(index(w))};
    };
    auto* hidden = memory.shared<float>(places * F);
    const EachLayout inputs =
        lay_out_places(inputs_used, D, [&](std::size_t i) { return x[order[i] / k].data(); });

    auto& blocks = *memory.own<simd::LinearScratch>(1);
    {
      const Part rows = part(F, experts[0].w1.panel_rows);
      const std::size_t width = rows.end - rows.begin;
      float* up = memory.own<float>(S * width);  // all tokens may pick one expert
      for (std::size_t i = 0; i < n; ++i) {
        const Picked& expert = picked[i];
        ask_for(i + kStepsAhead);
        float* gate = hidden + expert.first * F + rows.begin;
        kernels_->linear(gate, F, range(expert.w1, rows),
                         tokens_for(expert.w1, inputs, expert.first, expert.count), blocks);
        kernels_->linear(up, width, range(expert.w3, rows),
                         tokens_for(expert.w3, inputs, expert.first, expert.count), blocks);
        for (std::size_t t = 0; t < expert.count; ++t) {
          kernels_->swiglu(gate + t * F, up + t * width, width, static_cast<float>(limit));
        }
      }
    }
    wait_for_all();
    const EachLayout activated =
        lay_out_places(hidden_used, F, [&](std::size_t i) { return hidden + i * F; });
    {
      const Part rows = part(D, experts[0].w2.panel_rows);
      const std::size_t width = rows.end - rows.begin;
      float* out = memory.own<float>(S * width);
      for (std::size_t s = 0; s < S && width > 0; ++s) {
        std::fill_n(y[s].data() + rows.begin, width, 0.0f);
      }
      for (std::size_t i = 0; i < n; ++i) {
        const Picked& expert = picked[i];
        ask_for(n + i + kStepsAhead);
        kernels_->linear(out, width, range(expert.w2, rows),
                         tokens_for(expert.w2, activated, expert.first, expert.count), blocks);
        for (std::size_t t = 0; t < expert.count; ++t) {
          const std::size_t place = order[expert.first + t];
          kernels_->add_scaled(y[place / k].data() + rows.begin, out + t * width,
                               weights.flat()[place], width);
        }
      }
    }
    wait_for_all();
  }

  template <std::size_t F>
  void swiglu(RowsView<float, F> gate, RowsView<const float, F> up, double limit) {
    for_part(gate.extent(0), 1, [&](std::size_t s) {
      kernels_->swiglu(gate[s].data(), up[s].data(), F, static_cast<float>(limit));
    });
    wait_for_all();
  }

  template <std::size_t D>
  void add(RowsView<float, D> y, RowsView<const float, D> x) {
    for_part(y.extent(0), 1,
             [&](std::size_t s) { kernels_->add_scaled(y[s].data(), x[s].data(), 1.0f, D); });
    wait_for_all();
  }

  template <std::size_t N, std::size_t D>
  void add_to_streams(RowsView<float, N, D> X, RowsView<const float, D> y) {
    for_part(X.extent(0) * N, 1, [&](std::size_t i) {
      kernels_->add_scaled(X[i / N][i % N].data(), y[i / N].data(), 1.0f, D);
    });
    wait_for_all();
  }

  template <std::size_t V>
  void argmax(RowsView<std::int32_t, 1> ids, RowsView<const float, V> logits) {
    for_part(logits.extent(0), 1, [&](std::size_t s) {
      const auto row = logits[s].flat();
      ids(s, 0) = static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin());
    });
    wait_for_all();
  }
  ///@}

 private:
  struct Part {
    std::size_t begin;
    std::size_t end;
  };
  /// This lane's share of n items, cut at multiples of `grain`.
  Part part(std::size_t n, std::size_t grain) const {
    const std::size_t units = (n + grain - 1) / grain;
    return {std::min(n, units * lane_ / lanes_ * grain),
            std::min(n, units * (lane_ + 1) / lanes_ * grain)};
  }
  template <class F>
  void for_part(std::size_t n, std::size_t grain, F&& f) const {
    const Part mine = part(n, grain);
    for (std::size_t i = mine.begin; i < mine.end; ++i) f(i);
  }

  bool bf16_rows() const { return reduced_ && !exact_; }

  static simd::RowRange range(const simd::ProductMatrix& w, const Part& rows) {
    return {&w, rows.begin, rows.end};
  }

  std::size_t value_bytes(const StoredMatrix& stored) const {
    return stored.rows * kernels_->row_bytes(stored);
  }

  void start_reading(const simd::ProductMatrix& w) const {
    simd::start_reading(w.stored.values, value_bytes(w.stored), mapped_->tells_residency);
  }

  /// Lets experts that have a copy in memory use it, and makes copies where there is room.
  template <class Picked>
  void use_copies(Scratch& memory, std::span<Picked> picked) {
    const auto bytes = [&](const simd::ProductMatrix& w) {
      return (kernels_->panel_bytes(w.stored) + 63) / 64 * 64;
    };
    const std::size_t expert_bytes =
        bytes(picked[0].w1) + bytes(picked[0].w2) + bytes(picked[0].w3);
    if (budget_.value_or(0) < expert_bytes) return;
    auto* copies = memory.shared<simd::ExpertCache::Place>(picked.size());
    if (is_leader()) {
      auto& cache = mapped_->experts;
      if (!cache) cache.emplace(*budget_, expert_bytes);
      cache->begin_pass();
      for (std::size_t i = 0; i < picked.size(); ++i) {
        const Picked& expert = picked[i];
        const bool fits = bytes(expert.w1) + bytes(expert.w2) + bytes(expert.w3) <= expert_bytes;
        copies[i] =
            fits ? cache->use(expert.w1.stored.values, expert.count) : simd::ExpertCache::Place{};
      }
    }
    wait_for_all();
    for (std::size_t i = lane_; i < picked.size(); i += lanes_) {
      if (!copies[i].is_new) continue;
      for (const auto* w : {&picked[i].w1, &picked[i].w2, &picked[i].w3}) start_reading(*w);
    }
    for (std::size_t i = 0; i < picked.size(); ++i) {
      std::byte* copy = copies[i].copy;
      if (copy == nullptr) continue;
      for (simd::ProductMatrix* w : {&picked[i].w1, &picked[i].w2, &picked[i].w3}) {
        if (copies[i].is_new) {
          const Part rows = part(w->stored.rows, w->panel_rows);
          kernels_->store_in_panels(copy, w->stored, w->panel_rows, rows.begin, rows.end);
        }
        w->panels = copy;
        copy += bytes(*w);
      }
    }
    wait_for_all();
    for (std::size_t i = 0; is_leader() && i < picked.size(); ++i) {
      if (!copies[i].is_new) continue;
      for (const simd::ProductMatrix* w : {&picked[i].w1, &picked[i].w2, &picked[i].w3}) {
        simd::release_mapped(w->stored.values, value_bytes(w->stored));
      }
    }
  }

  simd::Tokens lay_out(Scratch& memory, DType dtype, const float* x, std::size_t S, std::size_t K) {
    const simd::Layout layout = kernels_->layout_for(dtype, exact_);
    const std::size_t stride = kernels_->token_stride(layout, K);
    if (layout == simd::Layout::f32 && stride == K * sizeof(float)) {  // laid out already
      return {reinterpret_cast<const std::byte*>(x), stride, S, layout};
    }
    if (S * K <= simd::kPrivateLayout || lanes_ == 1) {
      auto* tokens = memory.own<std::byte>(S * stride);
      kernels_->lay_out(layout, tokens, x, K, S, K);
      return {tokens, stride, S, layout};
    }
    auto* tokens = memory.shared<std::byte>(S * stride);
    const Part mine = part(S, 1);
    kernels_->lay_out(layout, tokens + mine.begin * stride, x + mine.begin * K, K,
                      mine.end - mine.begin, K);
    wait_for_all();
    return {tokens, stride, S, layout};
  }

  void multiply(Scratch& memory, float* y, std::size_t y_stride, const simd::ProductMatrix& w,
                const simd::Tokens& tokens) {
    const Part rows = part(w.stored.rows, w.panel_rows);
    if (rows.begin == rows.end) return;
    auto& blocks = *memory.own<simd::LinearScratch>(1);
    kernels_->linear(y + rows.begin, y_stride, range(w, rows), tokens, blocks);
  }

  template <std::size_t nI, std::size_t dI>
  simd::IndexQuery lay_out_query(Scratch& memory, TensorView<const float, nI, dI> q,
                                 TensorView<const float, nI> weights, const IndexLog<dI>& keys) {
    auto* laid_out = memory.own<std::byte>(simd::padded_heads(nI) * dI * sizeof(float));
    auto* scaled = memory.own<float>(simd::padded_heads(nI));
    kernels_->lay_out_query(laid_out, scaled, q.data(), weights.data(), nI, dI, keys.bf16());
    return {laid_out, scaled};
  }

  /// Scores the entries begin .. end - 1; begin is a multiple of kKeyBlock.
  template <std::size_t dI>
  void score(simd::TopK& best, const simd::IndexQuery& query, const IndexLog<dI>& keys,
             std::size_t nI, std::size_t begin, std::size_t end) {
    alignas(64) float scores[simd::kKeyBlock];
    for (std::size_t e = begin; e < end; e += simd::kKeyBlock) {
      kernels_->score_block(scores, keys.key_block(e / simd::kKeyBlock), query, nI, dI,
                            keys.bf16());
      best.add(scores, static_cast<std::int32_t>(e), std::min(simd::kKeyBlock, end - e));
    }
  }

  /// Ascending, so that the values are summed in one order.
  template <std::size_t TopK>
  static void write_picks(TensorView<std::int32_t, TopK> picks, simd::TopK& best) {
    const std::span<const simd::Candidate> found = best.finish();
    for (std::size_t i = 0; i < TopK; ++i) picks[i] = i < found.size() ? found[i].entry : -1;
    std::sort(picks.data(), picks.data() + found.size());
  }

  static float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
  static float sqrt_softplus(float x) {
    return std::sqrt(std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x))));
  }
  template <std::size_t k, std::size_t E>
  static void weigh_experts(TensorView<std::int32_t, k> experts, TensorView<float, k> weights,
                            TensorView<const float, E> logits, double scale) {
    float sum = 0.0f;
    for (std::size_t i = 0; i < k; ++i) {
      sum += weights[i] = sqrt_softplus(logits[static_cast<std::size_t>(experts[i])]);
    }
    for (std::size_t i = 0; i < k; ++i) {
      weights[i] = weights[i] / (sum + 1e-20f) * static_cast<float>(scale);
    }
  }

  const simd::Kernels* kernels_;
  bool exact_;
  /// What is known of weights that are not in panels; only the leader changes it during a pass.
  struct MappedWeights {
    bool any = false;
    bool tells_residency = true;
    bool cold = true;  // something had to be waited for in the pass before
    std::size_t waits = std::numeric_limits<std::size_t>::max();  // pages_waited_for() then
    std::optional<simd::ExpertCache> experts;
  };

  std::optional<std::size_t> budget_;  // what is left of it; the largest number: all weights
  std::shared_ptr<simd::WeightPool> pool_;
  std::shared_ptr<MappedWeights> mapped_;
  bool reduced_ = false;  // some weight is stored in less than float32
  std::shared_ptr<simd::Team> team_;
  std::size_t lane_ = 0;
  std::size_t lanes_ = 1;
  simd::Arena::Cursor shared_;
  simd::Arena::Cursor own_;
};

}  // namespace ds4::inline v0_1
