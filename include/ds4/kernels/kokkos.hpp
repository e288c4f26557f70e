// The Kokkos backend: the model on any execution space, e.g. Kokkos::Cuda, Kokkos::HIP or
// Kokkos::OpenMP. Weights are uploaded once, state and activations stay in the space's memory.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <Kokkos_Core.hpp>

#include <ds4/config/config.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/attention.hpp>
#include <ds4/kernels/kokkos/indexer.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/linear.hpp>
#include <ds4/kernels/kokkos/logs.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/operations/compressor.hpp>
#include <ds4/kernels/kokkos/operations/elementwise.hpp>
#include <ds4/kernels/kokkos/operations/experts.hpp>
#include <ds4/kernels/kokkos/operations/hyper_connection.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>
#include <ds4/kernels/kokkos/weight_pool.hpp>
#include <ds4/kernels/ops.hpp>

namespace ds4::inline v0_1 {

/// Settings of the Kokkos backend.
struct KokkosOptions {
  /// Activations and state rows in float32 throughout. Otherwise, where weights are stored in less
  /// than float32, state rows are BF16, and the activations of BF16 matrices are rounded to BF16 on
  /// spaces of a host that multiplies BF16. GPUs have float32 activations in either case.
  bool exact = false;
  /// Threads of a team on a host space. One is fastest; others are for tests of the kernels.
  std::size_t host_team = 1;
  /// Told bytes uploaded and bytes in all while weights are loaded.
  std::function<void(std::size_t, std::size_t)> progress = {};
};

/// A backend in float32 on a Kokkos execution space. Kokkos has to be initialised before one is
/// made and until all models and states are gone. A copy shares weights and scratch memory; one
/// pass at a time may run. Results do not depend on how a sequence is split into passes, nor on the
/// other sequences of a pass. Activations are of types that the host cannot read.
template <class Space = Kokkos::DefaultExecutionSpace>
class KokkosBackend {
 public:
  ///@{
  /// See Backend.
  using ExecutionSpace = Space;
  using Scalar = float;
  using Element = kokkos::OnDevice<float>;
  using Index = kokkos::OnDevice<std::int32_t>;
  /// A weight, [kRows, kCols].
  template <std::size_t Rows, std::size_t Cols>
  struct Matrix : kokkos::PackedMatrix {
    ///@{
    /// Its extents.
    static constexpr std::size_t kRows = Rows;
    static constexpr std::size_t kCols = Cols;
    ///@}
  };
  template <std::size_t... E>
  using Parameter = kokkos::Constants<Space, float, E...>;
  template <std::size_t V, std::size_t K>
  using HashTable = kokkos::Constants<Space, std::int32_t, V, K>;
  template <std::size_t Width>
  using RowLog = kokkos::DeviceLog<Space, Width, false>;
  template <std::size_t Width>
  using KeyLog = kokkos::DeviceLog<Space, Width, true>;
  template <std::size_t Width>
  using IndexLog = kokkos::DeviceLog<Space, Width, true>;
  ///@}

  /// A layer's experts, and their matrices side by side for the kernels.
  template <class Expert>
  class Experts : public std::vector<Expert> {
   public:
    using std::vector<Expert>::vector;

    /// The three matrices w1, w2, w3 of every expert, on the device.
    const kokkos::PackedMatrix* table() const {
      return reinterpret_cast<const kokkos::PackedMatrix*>(table_.data());
    }
    ///@{
    /// Which storages matrix `which` of some expert has, and the bytes of one expert's.
    bool has(std::size_t which, kokkos::Storage storage) const {
      return (storages_[which] >> static_cast<unsigned>(storage) & 1u) != 0;
    }
    double bytes(std::size_t which) const { return bytes_[which]; }
    ///@}

    /// Makes the table, once all experts are bound.
    void complete(const Space& space) {
      std::vector<kokkos::PackedMatrix> all;
      for (const Expert& expert : *this) {
        for (const kokkos::PackedMatrix* w :
             {static_cast<const kokkos::PackedMatrix*>(&expert.w1),
              static_cast<const kokkos::PackedMatrix*>(&expert.w2),
              static_cast<const kokkos::PackedMatrix*>(&expert.w3)}) {
          const std::size_t which = all.size() % 3;
          storages_[which] |= 1u << static_cast<unsigned>(w->storage);
          bytes_[which] = static_cast<double>(w->word_bytes() + w->scale_bytes());
          all.push_back(*w);
        }
      }
      const std::size_t bytes = all.size() * sizeof(kokkos::PackedMatrix);
      table_ = kokkos::Bytes<Space>("ds4 expert table", bytes);
      kokkos::copy_to_device(space, table_.data(), all.data(), bytes);
    }

   private:
    kokkos::Bytes<Space> table_;
    std::array<unsigned, 3> storages_{};
    std::array<double, 3> bytes_{};
  };

  /// Throws ds4::Error if Kokkos is not initialised.
  explicit KokkosBackend(const KokkosOptions& options = {})
      : exact_(options.exact),
        launch_(checked_space(), options.host_team),
        weights_(std::make_shared<kokkos::WeightPool<Space>>(options.progress)),
        arena_(std::make_shared<kokkos::Arena<Space>>()) {}

  /// Memory for as long as this object lives.
  class Scratch {
   public:
    /// Takes memory where the backend has come to.
    explicit Scratch(KokkosBackend& backend) : backend_(backend), cursor_(backend.cursor_) {}
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { backend_.cursor_ = cursor_; }

    ///@{
    /// Activations [S, E...], and indices of this shape.
    template <std::size_t... E>
    RowsView<Element, E...> rows(std::size_t S) {
      return {device<float>(S * (E * ... * 1)), S};
    }
    template <std::size_t... E>
    RowsView<Index, E...> indices(std::size_t S) {
      return {device<std::int32_t>(S * (E * ... * 1)), S};
    }
    ///@}
    /// An array of anything in the host's memory.
    template <class Item>
    std::span<Item> array(std::size_t count) {
      auto items = std::make_shared<std::vector<Item>>(count);
      arrays_.push_back(items);
      return *items;
    }
    /// The host's indices where the backend can read them.
    std::span<const Index> upload(std::span<const std::int32_t> host) {
      auto* memory = device<std::int32_t>(host.size());
      kokkos::copy_to_device(backend_.launch_.space(), reinterpret_cast<std::byte*>(memory),
                             host.data(), host.size_bytes());
      return {memory, host.size()};
    }
    /// Rows for a result that `deliver` brings to the host's memory.
    template <std::size_t... E>
    RowsView<Element, E...> result(RowsView<float, E...> host) {
      return rows<E...>(host.extent(0));
    }
    /// `count` items in the space, not initialised.
    template <class Item>
    kokkos::OnDevice<Item>* device(std::size_t count) {
      return reinterpret_cast<kokkos::OnDevice<Item>*>(
          backend_.arena_->take(backend_.cursor_, count * sizeof(Item)));
    }

   private:
    KokkosBackend& backend_;
    typename kokkos::Arena<Space>::Cursor cursor_;
    std::vector<std::shared_ptr<void>> arrays_;
  };
  /// Memory for a part of the pass.
  Scratch scratch() { return Scratch(*this); }
  /// Memory of the space that is kept from pass to pass: what the largest pass so far took.
  std::size_t scratch_bytes() const { return arena_->bytes(); }
  /// Threads that the space runs at the same time.
  std::size_t threads() const { return static_cast<std::size_t>(launch_.space().concurrency()); }
  /// Bytes of the weights in the space's memory.
  std::size_t weight_bytes() const { return weights_->bytes(); }
  /// What has been launched so far. A copy of a backend counts into the same log.
  kokkos::LaunchLog& launches() const { return launch_.log(); }

  /// Calls f(lane) once: this thread launches all kernels.
  template <class F>
  void run(F&& f) {
    f(*this);
    launch_.space().fence("ds4::pass");
  }
  /// There is no other lane.
  bool is_leader() const { return true; }
  /// Waits for what has been launched.
  void wait_for_all() { launch_.space().fence("ds4::wait_for_all"); }

  /// Brings a result to the host's memory.
  template <class Item>
  void deliver(std::span<Item> host, std::span<const kokkos::OnDevice<Item>> values) {
    kokkos::copy_to_host(launch_.space(), host.data(),
                         reinterpret_cast<const std::byte*>(values.data()), host.size_bytes());
  }
  /// Calls f with the values where the host can read them.
  template <class Item, class F>
  void show(std::span<const kokkos::OnDevice<Item>> values, F&& f) {
    std::vector<Item> host(values.size());
    deliver(std::span<Item>(host), values);
    f(std::span<const Item>(host));
  }
  /// Marks a part of the pass for Kokkos::Tools, named by all arguments, for as long as what it
  /// returns lives.
  template <class... Parts>
  kokkos::Region region(const Parts&... parts) {
    std::string name = "ds4::";
    (append_part(name, parts), ...);
    return kokkos::Region(name);
  }

  /// A weight of the model from a checkpoint's: uploaded.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind(const StoredMatrix& stored) {
    if (stored.dtype != DType::f32) reduced_ = true;
    return {weights_->upload(launch_.space(), stored)};
  }
  /// One of a routed expert.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_expert(const StoredMatrix& stored) {
    return bind<Rows, Cols>(stored);
  }
  /// One whose rows are looked up, not multiplied.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_rows(const StoredMatrix& stored) {
    return {weights_->upload(launch_.space(), stored)};
  }
  /// A parameter or a table: uploaded.
  template <class P>
  P bind_small(const typename P::Host& values) {
    return P(launch_.space(), values);
  }
  /// All experts of a layer are bound.
  template <class Expert>
  void bind_experts(Experts<Expert>& experts) {
    experts.complete(launch_.space());
  }
  /// Before weights are bound: how many bytes they are in all.
  void expect_weights(std::size_t bytes, bool) { weights_->expect(bytes); }
  /// Nothing is read from files any more.
  void read_ahead(std::span<const std::span<const std::byte>>) {}

  ///@{
  /// The operations, as in ds4::ops.
  template <std::size_t N, std::size_t D, class W>
  void embed(RowsView<Element, N, D> x, std::span<const Index> ids, const W& embed) {
    launch_("ds4::embed", moves(x.size() + x.size() / N), ids.size(), kokkos::kTeam, 0,
            kokkos::Embed<Space>{raw(x), kokkos::raw(ids.data()), embed, N});
  }

  template <std::size_t... E>
  void take_rows(RowsView<Element, E...> y, RowsView<const Element, E...> x,
                 std::span<const Index> rows) {
    constexpr int width = static_cast<int>((E * ... * 1));
    launch_("ds4::take_rows", moves(2 * y.size()), rows.size(), kokkos::kTeam, 0,
            kokkos::TakeRows<Space>{raw(y), raw(x), kokkos::raw(rows.data()), width});
  }

  template <class Log, std::size_t Width>
  void append(Log& log, RowsView<const Element, Width> rows) {
    const DType dtype = reduced_ && !exact_ ? DType::bf16 : DType::f32;
    std::byte* out = log.add(launch_.space(), rows.extent(0), dtype);
    const bool bf16 = log.dtype() == DType::bf16;
    launch_("ds4::append", moves(rows.size() * (bf16 ? 3 : 4) / 2), rows.extent(0), kokkos::kTeam,
            0, kokkos::StoreRows<Space>{out, raw(rows), static_cast<int>(Width), bf16});
  }
  template <std::size_t Width>
  void read_rows(RowsView<Element, Width> rows, const RowLog<Width>& log, std::size_t first) {
    const std::byte* from = log.data() + (first - log.first()) * log.row_bytes();
    launch_("ds4::read_rows", moves(2 * rows.size()), rows.extent(0), kokkos::kTeam, 0,
            kokkos::StoreRows<Space>{reinterpret_cast<std::byte*>(raw(rows)),
                                     reinterpret_cast<const float*>(from), static_cast<int>(Width),
                                     false});
  }
  template <class Log>
  void forget_before(Log& log, std::size_t row) {
    log.forget_before(row);
  }

  template <std::size_t N, std::size_t K, class W>
  void linear(RowsView<Element, N> y, RowsView<const Element, K> x, const W& w) {
    product("ds4::linear", raw(y), raw(x), x.extent(0), w, 1);
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  void grouped_linear(RowsView<Element, G, N> y, RowsView<const Element, G, K> x, const W& w) {
    product("ds4::grouped_linear", raw(y), raw(x), x.extent(0), w, G);
  }

  template <std::size_t K>
  void rms_norm(RowsView<Element, K> y, RowsView<const Element, K> x, const Parameter<K>& weight,
                double eps) {
    norm(raw(y), raw(x), kokkos::raw(weight.data()), x.extent(0), K, eps);
  }
  template <std::size_t... E>
  void rms_norm(RowsView<Element, E...> y, RowsView<const Element, E...> x, double eps) {
    constexpr std::size_t K = std::array<std::size_t, sizeof...(E)>{E...}.back();
    norm(raw(y), raw(x), nullptr, x.size() / K, K, eps);
  }

  template <std::size_t Pairs>
  void rotary_table(const RotaryTable<Element, Pairs>& table, std::size_t first, std::size_t step,
                    const std::array<double, Pairs>& inv_freq) {
    kokkos::FillRotaryTable<Space, Pairs> kernel{raw(table.cos), raw(table.sin), {}, first, step};
    for (std::size_t i = 0; i < Pairs; ++i) kernel.inv_freq[i] = inv_freq[i];
    launch_("ds4::rotary_table", moves(2 * table.cos.size()), table.cos.extent(0), 32, 0, kernel);
  }

  template <std::size_t H, std::size_t d, std::size_t Pairs>
  void rotate(RowsView<Element, H, d> x, const RotaryTable<Element, Pairs>& table, bool inverse) {
    const std::size_t S = x.extent(0);
    launch_("ds4::rotate", moves(S * (4 * H + 2) * Pairs, S * 6 * H * Pairs), S, kokkos::kTeam, 0,
            kokkos::Rotate<Space>{raw(x), raw(table.cos), raw(table.sin), static_cast<int>(H),
                                  static_cast<int>(d), static_cast<int>(Pairs), inverse});
  }

  template <std::size_t N>
  void hyper_connection_weights(RowsView<Element, N> pre, RowsView<Element, N> post,
                                RowsView<Element, N, N> comb,
                                RowsView<const Element, (2 + N) * N> u,
                                const Parameter<(2 + N) * N>& base, const Parameter<3>& scale,
                                std::size_t iters, double eps) {
    constexpr int kTokens = kokkos::kWeighedTokens<Space>;
    const std::size_t S = u.extent(0);
    launch_("ds4::hyper_connection_weights",
            moves(2 * u.size(), S * (iters * 2 * (2 * N * N + N) + 8 * N)),
            (S + kTokens - 1) / kTokens, kTokens, 0,
            kokkos::HyperConnectionWeights<Space, static_cast<int>(N)>{
                raw(pre), raw(post), raw(comb), raw(u), kokkos::raw(base.data()),
                kokkos::raw(scale.data()), static_cast<int>(S), static_cast<int>(iters),
                static_cast<float>(eps)});
  }

  template <std::size_t N>
  void hyper_head_weights(RowsView<Element, N> pre, RowsView<const Element, N> u,
                          const Parameter<N>& base, const Parameter<1>& scale, double eps) {
    constexpr int kTokens = kokkos::kWeighedTokens<Space>;
    const std::size_t S = u.extent(0);
    launch_("ds4::hyper_head_weights", moves(2 * u.size()), (S + kTokens - 1) / kTokens, kTokens, 0,
            kokkos::HyperHeadWeights<Space, static_cast<int>(N)>{
                raw(pre), raw(u), kokkos::raw(base.data()), kokkos::raw(scale.data()),
                static_cast<int>(S), static_cast<float>(eps)});
  }

  template <std::size_t N, std::size_t D>
  void collapse_streams(RowsView<Element, D> c, RowsView<const Element, N, D> X,
                        RowsView<const Element, N> pre) {
    launch_("ds4::collapse_streams", moves(c.size() + X.size(), 2 * X.size()), X.extent(0),
            kokkos::kTeam, 0,
            kokkos::CollapseStreams<Space, static_cast<int>(N)>{raw(c), raw(X), raw(pre),
                                                                static_cast<int>(D)});
  }

  template <std::size_t N, std::size_t D>
  void mix_streams(RowsView<Element, N, D> X, RowsView<const Element, N> post,
                   RowsView<const Element, N, N> comb, RowsView<const Element, D> y) {
    launch_("ds4::mix_streams", moves(2 * X.size() + y.size(), 2 * (N + 1) * X.size()), X.extent(0),
            kokkos::kTeam, 0,
            kokkos::MixStreams<Space, static_cast<int>(N)>{raw(X), raw(post), raw(comb), raw(y),
                                                           static_cast<int>(D)});
  }

  template <std::size_t Ratio, bool Overlapping, std::size_t Width, std::size_t Projected>
  void pool_entries(RowsView<Element, Width> entries, std::size_t first,
                    const RowLog<Projected>& kv, const RowLog<Projected>& gate,
                    const Parameter<Ratio, Projected>& ape) {
    launch_("ds4::pool_entries", moves(entries.size() * (2 * Ratio * Projected / Width + 1)),
            entries.extent(0), kokkos::kTeam, 0,
            kokkos::PoolEntries<Space, static_cast<int>(Ratio), Overlapping>{
                raw(entries), reinterpret_cast<const float*>(kv.data()),
                reinterpret_cast<const float*>(gate.data()), kokkos::raw(ape.data()), kv.first(),
                gate.first(), first, static_cast<int>(Width)});
  }

  template <std::size_t Ratio, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_entries(RowsView<Index, TopK> picks, RowsView<const Element, nI, dI> q,
                    RowsView<const Element, nI> weights, std::span<const Segment> segments,
                    std::span<const IndexLog<dI>* const> keys) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments[i];
      const auto rows = picks.rows(segment.first, segment.count);
      const int position = static_cast<int>(segment.position);
      if ((segment.position + segment.count) / Ratio <= TopK) {
        launch_("ds4::pick_all", moves(rows.size()), segment.count, kokkos::kTeam, 0,
                kokkos::PickAll<Space>{raw(rows), position, static_cast<int>(Ratio),
                                       static_cast<int>(TopK)});
      } else if (keys[i]->dtype() == DType::bf16) {
        pick_best<Ratio, true>(rows, q, weights, segment, *keys[i]);
      } else {
        pick_best<Ratio, false>(rows, q, weights, segment, *keys[i]);
      }
    }
  }

  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class Source>
  void attend(RowsView<Element, H, d> out, RowsView<const Element, H, d> q,
              const Parameter<H>& sink, RowsView<const Index, TopK> picks,
              std::span<const Segment> segments, std::span<const Source> sources) {
    constexpr int kHeads = static_cast<int>(std::min<std::size_t>(H, 8));
    constexpr int kFewHeads = std::min(kHeads, 2);
    const std::int32_t* chosen = Kind == AttentionKind::csa ? raw(picks) : nullptr;
    const auto with = [&]<int Heads, bool Bf16>() {
      attend_with<Heads, Bf16>(out, q, sink, chosen, static_cast<int>(TopK), segments, sources,
                               static_cast<int>(W), static_cast<int>(Ratio));
    };
    // Few queries: teams of fewer heads, so that there is one for every processor.
    const std::size_t teams = q.extent(0) * ((H + kHeads - 1) / kHeads);
    const bool few = teams < processors();
    if (sources[0].window->dtype() == DType::bf16) {
      few ? with.template operator()<kFewHeads, true>() : with.template operator()<kHeads, true>();
    } else {
      few ? with.template operator()<kFewHeads, false>()
          : with.template operator()<kHeads, false>();
    }
  }

  template <std::size_t E, std::size_t k, std::size_t V>
  void route_by_hash(RowsView<Index, k> experts, RowsView<Element, k> weights,
                     RowsView<const Element, E> logits, std::span<const Index> ids,
                     const HashTable<V, k>& tid2eid, double scale) {
    route<E, k>(experts, weights, logits, kokkos::raw(ids.data()), kokkos::raw(tid2eid.data()),
                nullptr, scale);
  }

  template <std::size_t E, std::size_t k>
  void route_by_score(RowsView<Index, k> experts, RowsView<Element, k> weights,
                      RowsView<const Element, E> logits, const Parameter<E>& bias, double scale) {
    route<E, k>(experts, weights, logits, nullptr, nullptr, kokkos::raw(bias.data()), scale);
  }

  /// Differs from the reference: tokens are sorted by expert on the device, each expert's rows are
  /// multiplied with all its tokens, and a token's experts are added in the order of its choices.
  template <std::size_t D, std::size_t k, class Expert>
  void routed_experts(RowsView<Element, D> y, RowsView<const Element, D> x,
                      RowsView<const Index, k> picks, RowsView<const Element, k> weights,
                      const Experts<Expert>& experts, double limit) {
    constexpr std::size_t F = Expert::F;
    const std::size_t E = experts.size();
    const std::size_t S = x.extent(0);
    const std::size_t places = S * k;
    const auto tile =
        static_cast<std::size_t>(kokkos::tile_tokens<Space>(static_cast<std::int32_t>(S)));
    const std::size_t most_tiles = std::min(places, std::min(E, places) + places / tile);
    Scratch memory(*this);
    auto* order = memory.template device<std::int32_t>(places);
    auto* position = memory.template device<std::int32_t>(places);
    auto* tiles = memory.template device<kokkos::ExpertTile>(most_tiles);
    auto* tile_count = memory.template device<std::int32_t>(1);
    using Sort = kokkos::SortByExpert<Space>;
    launch_("ds4::sort_by_expert", moves(3 * places), 1, Sort::kTeamSize,
            Sort::scratch(static_cast<int>(E)),
            Sort{raw(picks), kokkos::raw(order), kokkos::raw(position), kokkos::raw(tiles),
                 kokkos::raw(tile_count), static_cast<int>(places), static_cast<int>(E),
                 static_cast<int>(tile)});

    auto gate = memory.template rows<F>(places);
    auto up = memory.template rows<F>(places);
    auto down = memory.template rows<D>(places);
    const auto product = [&](std::string_view label, std::size_t which, std::size_t rows,
                             std::size_t cols, const float* in, float* out,
                             const std::int32_t* gather) {
      kokkos::ExpertJobs jobs{experts.table() + which,
                              3,
                              kokkos::Storage::f32,
                              static_cast<std::int32_t>(rows),
                              kokkos::raw(tiles),
                              kokkos::raw(tile_count),
                              static_cast<std::int32_t>(most_tiles),
                              in,
                              cols,
                              out,
                              rows,
                              gather,
                              static_cast<std::int32_t>(k)};
      const auto size = [](std::size_t n) { return static_cast<double>(n); };
      const kokkos::Cost cost{
          experts.bytes(which) * size(std::min(E, places)) + 4 * size(places) * size(rows + cols),
          2 * size(places) * size(rows) * size(cols)};
      for (const auto storage : {kokkos::Storage::f32, kokkos::Storage::bf16, kokkos::Storage::fp8,
                                 kokkos::Storage::fp4}) {
        if (!experts.has(which, storage)) continue;
        jobs.storage = storage;
        kokkos::multiply(launch_, label, cost, jobs, storage, static_cast<std::int32_t>(cols),
                         static_cast<std::int32_t>(tile), exact_);
      }
    };
    product("ds4::experts_w1", 0, F, D, raw(x), raw(gate), kokkos::raw(order));
    product("ds4::experts_w3", 2, F, D, raw(x), raw(up), kokkos::raw(order));
    activate(raw(gate), raw(up), places, F, limit);
    product("ds4::experts_w2", 1, D, F, raw(gate), raw(down), nullptr);
    launch_("ds4::combine_experts", moves(y.size() * (k + 1), 2 * y.size() * k), S, kokkos::kTeam,
            0,
            kokkos::CombineExperts<Space, static_cast<int>(k)>{
                raw(y), raw(down), raw(weights), kokkos::raw(position), static_cast<int>(D)});
  }

  template <std::size_t F>
  void swiglu(RowsView<Element, F> gate, RowsView<const Element, F> up, double limit) {
    activate(raw(gate), raw(up), gate.extent(0), F, limit);
  }

  template <std::size_t D>
  void add(RowsView<Element, D> y, RowsView<const Element, D> x) {
    launch_("ds4::add", moves(3 * y.size(), y.size()), y.extent(0), kokkos::kTeam, 0,
            kokkos::Add<Space>{raw(y), raw(x), static_cast<int>(D), 1});
  }

  template <std::size_t N, std::size_t D>
  void add_to_streams(RowsView<Element, N, D> X, RowsView<const Element, D> y) {
    launch_("ds4::add_to_streams", moves(2 * X.size() + y.size(), X.size()), X.extent(0) * N,
            kokkos::kTeam, 0,
            kokkos::Add<Space>{raw(X), raw(y), static_cast<int>(D), static_cast<int>(N)});
  }

  template <std::size_t V>
  void argmax(RowsView<Index, 1> ids, RowsView<const Element, V> logits) {
    launch_("ds4::argmax", moves(logits.size()), logits.extent(0), 1024, 0,
            kokkos::Argmax<Space>{raw(ids), raw(logits), static_cast<int>(V)});
  }
  ///@}

 private:
  static Space checked_space() {
    if (!Kokkos::is_initialized() || Kokkos::is_finalized()) {
      throw Error("Kokkos",
                  "expected Kokkos::initialize() or a Kokkos::ScopeGuard before the first "
                  "KokkosBackend, found neither");
    }
    return Space();
  }

  static void append_part(std::string& name, std::string_view part) { name += part; }
  static void append_part(std::string& name, std::size_t part) { name += std::to_string(part); }

  template <class T, std::size_t... E>
  static auto* raw(RowsView<T, E...> view) {
    return kokkos::raw(view.data());
  }

  /// The cost of an operation on so many float32 values.
  static kokkos::Cost moves(std::size_t values, std::size_t flops = 0) {
    return {4.0 * static_cast<double>(values), static_cast<double>(flops)};
  }

  /// Teams that a space can run at the same time, roughly.
  std::size_t processors() const { return kokkos::kOnHost<Space> ? threads() : threads() / 1024; }

  void product(std::string_view label, float* y, const float* x, std::size_t tokens,
               const kokkos::PackedMatrix& w, std::size_t groups) {
    const auto S = static_cast<std::int32_t>(tokens);
    const std::int32_t tile = kokkos::tile_tokens<Space>(S);
    const auto rows = static_cast<std::size_t>(w.rows);
    const auto cols = static_cast<std::size_t>(w.cols);
    const kokkos::DenseJobs jobs{w,    x, cols * groups, y,
                                 rows, S, tile,          static_cast<std::int32_t>(rows / groups)};
    const kokkos::Cost cost =
        kokkos::Cost{static_cast<double>(w.word_bytes() + w.scale_bytes()), 0} +
        moves(tokens * (rows + cols * groups), 2 * tokens * rows * cols);
    kokkos::multiply(launch_, label, cost, jobs, w.storage, w.cols, std::min(S, tile), exact_);
  }

  void norm(float* y, const float* x, const float* weight, std::size_t rows, std::size_t n,
            double eps) {
    launch_("ds4::rms_norm", moves(2 * rows * n, 4 * rows * n), rows, kokkos::kTeam, 0,
            kokkos::RmsNorm<Space>{y, x, weight, static_cast<int>(n), static_cast<float>(eps)});
  }

  void activate(float* gate, const float* up, std::size_t rows, std::size_t n, double limit) {
    launch_("ds4::swiglu", moves(3 * rows * n, 8 * rows * n), rows, kokkos::kTeam, 0,
            kokkos::Swiglu<Space>{gate, up, static_cast<int>(n), static_cast<float>(limit)});
  }

  template <std::size_t E, std::size_t k>
  void route(RowsView<Index, k> experts, RowsView<Element, k> weights,
             RowsView<const Element, E> logits, const std::int32_t* ids, const std::int32_t* table,
             const float* bias, double scale) {
    using Kernel = kokkos::Route<Space, static_cast<int>(E), static_cast<int>(k)>;
    launch_("ds4::route", moves(logits.size() + 2 * weights.size(), 4 * logits.size()),
            logits.extent(0), kokkos::kTeam, Kernel::scratch(),
            Kernel{raw(experts), raw(weights), raw(logits), ids, table, bias,
                   static_cast<float>(scale)});
  }

  template <std::size_t Ratio, bool Bf16, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_best(RowsView<Index, TopK> picks, RowsView<const Element, nI, dI> q,
                 RowsView<const Element, nI> weights, const Segment& segment,
                 const IndexLog<dI>& keys) {
    using Score = kokkos::ScoreEntries<Space, static_cast<int>(nI), static_cast<int>(dI), Bf16>;
    using Merge = kokkos::MergeBest<Space>;
    const std::size_t S = segment.count;
    const std::size_t visible = (segment.position + S) / Ratio;
    Scratch memory(*this);
    auto* scores = memory.template device<float>(S * kokkos::kSlab);
    std::array<kokkos::BestEntries, 2> best;
    for (auto& list : best) {
      list = {kokkos::raw(memory.template device<float>(S * TopK)),
              kokkos::raw(memory.template device<std::int32_t>(S * TopK)),
              kokkos::raw(memory.template device<std::int32_t>(S))};
    }
    for (std::size_t begin = 0; begin < visible; begin += kokkos::kSlab) {
      const std::size_t count = std::min<std::size_t>(kokkos::kSlab, visible - begin);
      const Score score{kokkos::raw(scores),
                        raw(q.rows(segment.first, S)),
                        raw(weights.rows(segment.first, S)),
                        keys.data(),
                        static_cast<int>(S),
                        static_cast<int>(begin),
                        static_cast<int>(count)};
      const kokkos::Cost cost = kokkos::Cost{static_cast<double>(count * keys.row_bytes()), 0} +
                                moves(S * (nI * (dI + 1) + count), 2 * S * count * nI * (dI + 1));
      launch_("ds4::score_entries", cost, score.teams(), kokkos::kTeam, Score::scratch(), score);
      launch_("ds4::merge_best", moves(S * (count + 4 * TopK)), S, 256, Merge::scratch(),
              Merge{best[0], best[1], raw(picks), kokkos::raw(scores), static_cast<int>(begin),
                    static_cast<int>(count), static_cast<int>(segment.position),
                    static_cast<int>(Ratio), static_cast<int>(TopK)});
      std::swap(best[0], best[1]);
    }
  }

  template <int Heads, bool Bf16, std::size_t H, std::size_t d, class Source>
  void attend_with(RowsView<Element, H, d> out, RowsView<const Element, H, d> q,
                   const Parameter<H>& sink, const std::int32_t* picks, int top_k,
                   std::span<const Segment> segments, std::span<const Source> sources, int W,
                   int ratio) {
    using Kernel = kokkos::Attend<Space, static_cast<int>(d), Heads, Bf16>;
    const auto blocks = static_cast<std::size_t>(Kernel::head_blocks(static_cast<int>(H)));
    for (std::size_t i = 0; i < segments.size(); i += kokkos::kSequences) {
      const std::size_t end = std::min(segments.size(), i + kokkos::kSequences);
      Kernel kernel{raw(out),
                    raw(q),
                    kokkos::raw(sink.data()),
                    picks,
                    top_k,
                    {},
                    static_cast<int>(segments[i].first),
                    static_cast<int>(H),
                    W,
                    ratio};
      std::size_t queries = 0;
      double keys = 0;  // that all queries see
      double rows = 0;  // that some query sees
      for (std::size_t j = i; j < end; ++j) {
        const Segment& segment = segments[j];
        const std::size_t last = segment.position + segment.count;
        kernel.sequences[j - i] = {sources[j].window->data(),
                                   sources[j].entries ? sources[j].entries->data() : nullptr,
                                   static_cast<std::uint32_t>(sources[j].window->first()),
                                   static_cast<std::uint32_t>(segment.position),
                                   static_cast<std::uint32_t>(segment.first),
                                   static_cast<std::uint32_t>(segment.count)};
        queries += segment.count;
        const std::size_t entries = ratio == 0 ? 0 : last / static_cast<std::size_t>(ratio);
        const std::size_t seen =
            std::min(last, static_cast<std::size_t>(W)) +
            (picks == nullptr ? entries : std::min(entries, static_cast<std::size_t>(top_k)));
        keys += static_cast<double>(segment.count * seen);
        rows += static_cast<double>(segment.count + seen);
      }
      const kokkos::Cost cost{
          rows * d * (Bf16 ? 2 : 4) + 8.0 * static_cast<double>(queries * H * d),
          4.0 * keys * H * d};
      launch_("ds4::attend", cost, queries * blocks, kokkos::kTeam, Kernel::scratch(), kernel);
    }
  }

  bool exact_;
  bool reduced_ = false;  // some weight is stored in less than float32
  kokkos::Launcher<Space> launch_;
  std::shared_ptr<kokkos::WeightPool<Space>> weights_;
  std::shared_ptr<kokkos::Arena<Space>> arena_;
  typename kokkos::Arena<Space>::Cursor cursor_;
};

}  // namespace ds4::inline v0_1
