// The backend of several machines: one model over the ranks of MPI, each of which has a share of
// the weights' rows and computes what they give.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/greatest.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/core/version.hpp>
#include <ds4/kernels/division.hpp>
#include <ds4/kernels/mpi/agreement.hpp>
#include <ds4/kernels/mpi/divided.hpp>
#include <ds4/kernels/mpi/on_reference.hpp>
#include <ds4/kernels/mpi/on_simd.hpp>
#include <ds4/kernels/mpi/own_part.hpp>
#include <ds4/kernels/mpi/ranks.hpp>
#include <ds4/kernels/ops.hpp>

namespace ds4::inline v0_1 {

/// Settings of Distributed; alike on all ranks.
struct DistributedOptions {
  /// A matrix of up to so many bytes is on every rank.
  std::size_t whole_bytes = kWholeBytes;
};

/// A backend over MPI ranks. Each rank has some rows of each matrix and of each expert's, computes
/// their results on an Inner backend, Simd or Reference, and gathers those of the others when an
/// operation needs them; nothing is summed across ranks, so that all results are bit for bit those
/// of Inner alone, on any number of ranks. Query heads and their groups of the output projection
/// are on one rank; parameters, norms and the sequences' states are on all.
///
/// Needs an mpi::World. All ranks make the same calls of a model in the same order with the same
/// arguments: a StopCheck has to give, and an observer to want, the same on all of them. What a
/// rank throws in the middle of a pass leaves the others waiting: mpi::World::end_all() ends them.
template <class Inner>
class Distributed : public Inner {
  using Own = mpi::OwnPart<Inner>;
  using T = typename Inner::Scalar;

 public:
  ///@{
  /// See Backend.
  using Scalar = T;
  using Element = T;
  using Index = std::int32_t;
  template <class Expert>
  using Experts = std::vector<Expert>;
  ///@}
  /// The rank's part of a matrix.
  template <std::size_t Rows, std::size_t Cols>
  struct Matrix : Inner::template Matrix<Rows, Cols> {
    Division division;  ///< of its rows
  };

  /// Of all ranks that were launched together; all of them make one at the same time.
  explicit Distributed(Inner inner = Inner(), const DistributedOptions& options = {})
      : Inner(std::move(inner)),
        shared_(std::make_shared<Shared>(options)),
        results_(std::shared_ptr<mpi::Ranks>(shared_, &shared_->ranks)) {}

  /// The ranks that run the model.
  const mpi::Ranks& ranks() const { return shared_->ranks; }

  /// Calls f(lane) as Inner does.
  template <class F>
  void run(F&& f) {
    Inner::run([&](Inner& inner) {
      Distributed lane(*this);
      static_cast<Inner&>(lane) = inner;
      f(lane);
    });
  }

  /// Before weights are bound: throws ds4::Error on all ranks unless all of them are to load the
  /// same checkpoint of the same configuration with the same library, instruction set and options.
  void expect_model(const ConfigValues& config, std::uint64_t fingerprint) {
    mpi::Facts facts{{"version", std::string(kLibraryVersion)},
                     {"configuration", mpi::checksum_of(to_string(config))},
                     {"checkpoint", detail::hexadecimal(fingerprint)},
                     {"whole_bytes", std::to_string(shared_->options.whole_bytes)}};
    if constexpr (requires { this->instruction_set(); }) {
      facts.emplace_back("instruction set", this->instruction_set());
      facts.emplace_back("exact", this->exact() ? "true" : "false");
    }
    mpi::expect_agreement(shared_->ranks, facts);
    const RowGroups groups = row_groups(config, shared_->ranks.size());
    const std::size_t heads = config.num_attention_heads * config.head_dim;
    const std::size_t G = config.o_groups;
    shared_->groups[{config.index_n_heads * config.index_head_dim, config.q_lora_rank}] =
        groups.indexer;
    shared_->groups[{G * config.o_lora_rank, heads / G}] = groups.output;
    shared_->query_shape = {heads, config.q_lora_rank};
    shared_->groups[shared_->query_shape] = groups.query;
  }

  /// See Simd. The ranks of a machine share its memory.
  void expect_weights(std::size_t bytes, bool tells_residency) {
    const mpi::Ranks& ranks = shared_->ranks;
    Inner::expect_weights(bytes / ranks.size() * ranks.on_machine(), tells_residency);
  }

  /// The default for passes, whatever a rank's memory: their tokens have to be the same on all.
  std::size_t pass_memory() const { return 0; }

  ///@{
  /// The rank's rows of a weight. Throws ds4::Error for a routed expert whose matrices are not
  /// divided as those of the others.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind(const StoredMatrix& stored) {
    return bind_part<Rows, Cols>(
        stored, [&](const StoredMatrix& own) { return Inner::template bind<Rows, Cols>(own); });
  }
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_expert(const StoredMatrix& stored) {
    return bind_part<Rows, Cols>(stored, [&](const StoredMatrix& own) {
      return Inner::template bind_expert<Rows, Cols>(own);
    });
  }
  template <class Expert>
  void bind_experts(Experts<Expert>& experts) {
    for (const Expert& expert : experts) {
      const auto& first = experts.front();
      if (expert.w1.division == first.w1.division && expert.w3.division == first.w1.division &&
          expert.w2.division == first.w2.division) {
        continue;
      }
      throw Error(ErrorKind::file, "routed experts",
                  "found storages whose rows are cut at different places, expected one for w1 and "
                  "w3, and one for w2, of all experts of a layer");
    }
    Inner::bind_experts(experts);
  }
  /// All rows, which are looked up where they are mapped.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_rows(const StoredMatrix& stored) {
    return {Inner::template bind_rows<Rows, Cols>(stored), {Rows, 0}};
  }
  ///@}
  /// Reads the rank's own rows ahead.
  void read_ahead(std::span<const std::span<const std::byte>> ranges) {
    if (!this->is_leader()) return;
    std::vector<std::span<const std::byte>> own(ranges.begin(), ranges.end());
    for (auto& range : own) {
      const auto found = shared_->own_bytes.find(range.data());
      if (found != shared_->own_bytes.end()) range = found->second;
    }
    Inner::read_ahead(own);
  }

  /// Brings a whole result to the host's memory, on every rank.
  template <class Item>
  void deliver(std::span<Item> host, std::span<const Item> values) {
    complete(values);
    Inner::deliver(host, values);
  }
  /// Calls f with whole values, on every rank.
  template <class Item, class F>
  void show(std::span<const Item> values, F&& f) {
    complete(values);
    Inner::show(values, std::forward<F>(f));
  }

  ///@{
  /// The operations, as in ds4::ops.
  template <std::size_t N, std::size_t D, class W>
  void embed(RowsView<T, N, D> x, std::span<const std::int32_t> ids, const W& embed) {
    write(x);
    Inner::embed(x, ids, embed);
  }

  template <std::size_t... E>
  void take_rows(RowsView<T, E...> y, RowsView<const T, E...> x,
                 std::span<const std::int32_t> rows) {
    complete(x.flat());
    write(y);
    Inner::take_rows(y, x, rows);
  }

  template <class Log, std::size_t Width>
  void append(Log& log, RowsView<const T, Width> rows) {
    complete(rows.flat());
    Inner::append(log, rows);
  }

  template <class Log, std::size_t Width>
  void read_rows(RowsView<T, Width> rows, const Log& log, std::size_t first) {
    write(rows);
    Inner::read_rows(rows, log, first);
  }

  template <std::size_t N, std::size_t K, class W>
  void linear(RowsView<T, N> y, RowsView<const T, K> x, const W& w) {
    complete(x.flat());
    write(y);
    if (w.division.is_whole()) return Inner::linear(y, x, w);
    Own::linear(inner(), y.data() + part(w.division).begin, N, x, w);
    divide(y.data(), y.extent(0), w.division, shared_->query_shape != std::pair(N, K));
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  void grouped_linear(RowsView<T, G, N> y, RowsView<const T, G, K> x, const W& w) {
    if (!has_own_groups<N, K>(x.flat(), w.division)) complete(x.flat());
    write(y);
    if (w.division.is_whole()) return Inner::grouped_linear(y, x, w);
    Own::template grouped_linear<G, N, K>(inner(), y.data(), x.data(), x.extent(0),
                                          part(w.division).begin, w);
    divide(y.data(), y.extent(0), w.division);
  }

  template <std::size_t K>
  void rms_norm(RowsView<T, K> y, RowsView<const T, K> x,
                const typename Inner::template Parameter<K>& weight, double eps) {
    complete(x.flat());
    write(y);
    Inner::rms_norm(y, x, weight, eps);
  }

  template <std::size_t... E>
  void rms_norm(RowsView<T, E...> y, RowsView<const T, E...> x, double eps) {
    constexpr std::size_t K = std::array<std::size_t, sizeof...(E)>{E...}.back();
    const mpi::Divided<T>* divided = find(x.flat());
    if (divided != nullptr && y.data() == x.data() && divided->columns.keeps_whole(K) &&
        divided->rows == x.extent(0)) {
      const Part own = part(divided->columns);
      return Own::rms_norm(inner(), y.data() + own.begin, x.data() + own.begin, x.extent(0),
                           divided->columns.rows, own.size() / K, K, eps);
    }
    complete(x.flat());
    write(y);
    Inner::rms_norm(y, x, eps);
  }

  template <std::size_t Pairs>
  void rotary_table(RotaryTable<T, Pairs> table, std::size_t first, std::size_t step,
                    const std::array<double, Pairs>& inv_freq) {
    write(table.cos);
    write(table.sin);
    Inner::rotary_table(table, first, step, inv_freq);
  }

  template <std::size_t H, std::size_t d, std::size_t Pairs>
  void rotate(RowsView<T, H, d> x, const RotaryTable<T, Pairs>& table, bool inverse) {
    const mpi::Divided<T>* divided = find(x.flat());
    if (divided != nullptr && divided->columns.keeps_whole(d) && divided->rows == x.extent(0)) {
      const Part own = part(divided->columns);
      return Own::rotate(inner(), x.data() + own.begin, x.extent(0), H * d, own.size() / d, d,
                         table, inverse);
    }
    complete(x.flat());
    Inner::rotate(x, table, inverse);
  }

  template <std::size_t N, class Base, class Scale>
  void hyper_connection_weights(RowsView<T, N> pre, RowsView<T, N> post, RowsView<T, N, N> comb,
                                RowsView<const T, (2 + N) * N> u, const Base& base,
                                const Scale& scale, std::size_t iters, double eps) {
    complete(u.flat());
    write(pre);
    write(post);
    write(comb);
    Inner::hyper_connection_weights(pre, post, comb, u, base, scale, iters, eps);
  }

  template <std::size_t N, class Base, class Scale>
  void hyper_head_weights(RowsView<T, N> pre, RowsView<const T, N> u, const Base& base,
                          const Scale& scale, double eps) {
    complete(u.flat());
    write(pre);
    Inner::hyper_head_weights(pre, u, base, scale, eps);
  }

  template <std::size_t N, std::size_t D>
  void collapse_streams(RowsView<T, D> c, RowsView<const T, N, D> X, RowsView<const T, N> pre) {
    complete(X.flat());
    complete(pre.flat());
    write(c);
    Inner::collapse_streams(c, X, pre);
  }

  template <std::size_t M, std::size_t N, std::size_t D>
  void mean_streams(RowsView<T, M, D> y, std::size_t slot, RowsView<const T, N, D> X) {
    complete(X.flat());
    complete(y.as_const().flat());  // the other slots stay
    Inner::mean_streams(y, slot, X);
  }

  template <std::size_t N, std::size_t D>
  void mix_streams(RowsView<T, N, D> X, RowsView<const T, N> post, RowsView<const T, N, N> comb,
                   RowsView<const T, D> y) {
    complete(X.as_const().flat());
    complete(post.flat());
    complete(comb.flat());
    complete(y.flat());
    Inner::mix_streams(X, post, comb, y);
  }

  template <std::size_t Ratio, bool Overlapping, std::size_t Width, class Log, class P>
  void pool_entries(RowsView<T, Width> entries, std::size_t first, const Log& kv, const Log& gate,
                    const P& ape) {
    write(entries);
    Inner::template pool_entries<Ratio, Overlapping>(entries, first, kv, gate, ape);
  }

  template <std::size_t Ratio, std::size_t TopK, std::size_t nI, std::size_t dI, class Log>
  void pick_entries(RowsView<std::int32_t, TopK> picks, RowsView<const T, nI, dI> q,
                    RowsView<const T, nI> weights, std::span<const Segment> segments,
                    std::span<const Log* const> keys) {
    complete(q.flat());
    complete(weights.flat());
    write(picks);
    Inner::template pick_entries<Ratio>(picks, q, weights, segments, keys);
  }

  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class P, class Source>
  void attend(RowsView<T, H, d> out, RowsView<const T, H, d> q, const P& sink,
              RowsView<const std::int32_t, TopK> picks, std::span<const Segment> segments,
              std::span<const Source> sources) {
    if constexpr (Own::kDividesHeads) {
      const mpi::Divided<T>* divided = find(q.flat());
      if (divided != nullptr && divided->columns.keeps_whole(d) && divided->rows == q.extent(0)) {
        const Division columns = divided->columns;
        const Part own = part(columns);
        write(out);
        Inner::template attend_heads<Kind, Ratio, W>(out, q, sink, picks, segments, sources,
                                                     own.begin / d, own.size() / d);
        return divide(out.data(), out.extent(0), columns, false);
      }
    }
    complete(q.flat());
    write(out);
    Inner::template attend<Kind, Ratio, W>(out, q, sink, picks, segments, sources);
  }

  template <std::size_t E, std::size_t k, class Table>
  void route_by_hash(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                     RowsView<const T, E> logits, std::span<const std::int32_t> ids,
                     const Table& tid2eid, double scale) {
    complete(logits.flat());
    write(experts);
    write(weights);
    Inner::route_by_hash(experts, weights, logits, ids, tid2eid, scale);
  }

  template <std::size_t E, std::size_t k, class P>
  void route_by_score(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                      RowsView<const T, E> logits, const P& bias, double scale) {
    complete(logits.flat());
    write(experts);
    write(weights);
    Inner::route_by_score(experts, weights, logits, bias, scale);
  }

  template <std::size_t D, std::size_t k, class Expert>
  void routed_experts(RowsView<T, D> y, RowsView<const T, D> x,
                      RowsView<const std::int32_t, k> picks, RowsView<const T, k> weights,
                      const Experts<Expert>& experts, double limit) {
    complete(x.flat());
    write(y);
    const Division hidden_rows = experts.front().w1.division;
    const Division rows = experts.front().w2.division;
    Own::routed_experts(inner(), y.data() + part(rows).begin, x, picks, weights, experts, limit,
                        part(hidden_rows).begin, [&](T* hidden, std::size_t places) {
                          divide(hidden, places, hidden_rows);
                          complete(std::span<const T>(hidden, places * Expert::F));
                        });
    divide(y.data(), y.extent(0), rows, false);
  }

  template <std::size_t F>
  void swiglu(RowsView<T, F> gate, RowsView<const T, F> up, double limit) {
    if (const auto own = divided_alike(gate.as_const().flat(), up.flat())) {
      return Own::swiglu(inner(), gate.data() + own->begin, up.data() + own->begin, gate.extent(0),
                         F, own->size(), limit);
    }
    Inner::swiglu(gate, up, limit);
  }

  template <std::size_t D>
  void add(RowsView<T, D> y, RowsView<const T, D> x) {
    if (const auto own = divided_alike(y.as_const().flat(), x.flat())) {
      return Own::add(inner(), y.data() + own->begin, x.data() + own->begin, y.extent(0), D,
                      own->size());
    }
    Inner::add(y, x);
  }

  template <std::size_t N, std::size_t D>
  void add_to_streams(RowsView<T, N, D> X, RowsView<const T, D> y) {
    complete(X.as_const().flat());
    complete(y.flat());
    Inner::add_to_streams(X, y);
  }

  template <std::size_t V>
  void argmax(RowsView<std::int32_t, 1> ids, RowsView<const T, V> logits) {
    mpi::Divided<T>* divided = find(logits.flat());
    write(ids);
    if (divided == nullptr || divided->rows != logits.extent(0)) {
      complete(logits.flat());
      return Inner::argmax(ids, logits);
    }
    divided->is_wanted = false;
    const Part own = part(divided->columns);
    const std::size_t R = ranks().size();
    this->wait_for_all();
    for (std::size_t s = 0; this->is_leader() && s < logits.extent(0); ++s) {
      std::vector<Greatest> greatest(R);
      greatest[ranks().rank()] =
          greatest_of(logits[s].flat().subspan(own.begin, own.size()), own.begin);
      shared_->ranks.gather(reinterpret_cast<std::byte*>(greatest.data()), sizeof(Greatest));
      ids(s, 0) = merged(greatest);
    }
    this->wait_for_all();
  }
  ///@}

 private:
  using Part = Division::Part;

  /// What the copies of a backend have in common.
  struct Shared {
    explicit Shared(const DistributedOptions& of) : options(of) {}

    DistributedOptions options;
    mpi::Ranks ranks;
    // Rows that are not cut, of the matrices of a shape.
    std::map<std::pair<std::size_t, std::size_t>, std::size_t> groups;
    std::pair<std::size_t, std::size_t> query_shape{};
    // Of a tensor in the mapped file, by where it begins, the rank's own.
    std::map<const std::byte*, std::span<const std::byte>> own_bytes;
  };

  /// A rank's greatest logit: -1 for none, -2 if there is one that is not to be.
  struct Greatest {
    T value;
    std::int32_t id;
  };
  static Greatest greatest_of(std::span<const T> logits, std::size_t first) {
    if (!std::ranges::all_of(logits, [](T x) { return x < std::numeric_limits<T>::infinity(); })) {
      return {T(0), -2};
    }
    const std::int32_t best = index_of_greatest(logits);
    if (best < 0) return {T(0), -1};
    return {logits[static_cast<std::size_t>(best)], best + static_cast<std::int32_t>(first)};
  }
  static std::int32_t merged(std::span<const Greatest> of_ranks) {
    Greatest best{T(0), -1};
    for (const Greatest& greatest : of_ranks) {
      if (greatest.id == -2) return -1;
      if (greatest.id < 0) continue;
      if (best.id < 0 || greatest.value > best.value) best = greatest;
    }
    return best.id;
  }

  Inner& inner() { return *this; }
  Part part(const Division& division) const {
    return division.part(ranks().rank(), ranks().size());
  }

  template <std::size_t Rows, std::size_t Cols, class Bind>
  Matrix<Rows, Cols> bind_part(const StoredMatrix& stored, Bind&& bind_own) {
    const Division division = division_of(stored);
    const StoredMatrix own = rows_of(stored, part(division));
    const std::size_t row_bytes = stored_row_bytes(stored.dtype, stored.cols);
    shared_->own_bytes[stored.values] = {own.values, own.rows * row_bytes};
    return {bind_own(own), division};
  }

  Division division_of(const StoredMatrix& stored) const {
    const std::size_t bytes = stored.rows * stored_row_bytes(stored.dtype, stored.cols);
    if (bytes <= shared_->options.whole_bytes) return {stored.rows, 0};
    const auto known = shared_->groups.find({stored.rows, stored.cols});
    return ds4::division_of(stored.rows, storage_info(stored.dtype).scale_rows,
                            known == shared_->groups.end() ? 0 : known->second, ranks().size());
  }

  template <class Item>
  mpi::Divided<T>* find(std::span<Item> values) {
    return results_.find(values.data(), values.size_bytes());
  }
  template <class Item>
  void complete(std::span<Item> values) {
    results_.complete(inner(), values.data(), values.size_bytes());
  }
  template <class View>
  void write(View view) {
    results_.forget(view.data(), view.flat().size_bytes());
  }
  /// The rank has computed its own columns of y [S, columns.rows].
  void divide(T* y, std::size_t S, const Division& columns, bool is_wanted = true) {
    if (!columns.is_whole()) results_.add({y, S, columns, is_wanted});
  }

  /// Whether every rank has what the groups of its rows read of x [S, G, K], a weight's rows being
  /// N to a group.
  template <std::size_t N, std::size_t K>
  bool has_own_groups(std::span<const T> x, const Division& rows) {
    const mpi::Divided<T>* divided = find(x);
    if (divided == nullptr) return true;
    for (std::size_t r = 0; r < ranks().size(); ++r) {
      const Part own = rows.part(r, ranks().size());
      const Part has = divided->columns.part(r, ranks().size());
      if (own.size() == 0) continue;
      if (has.begin > own.begin / N * K || (own.end + N - 1) / N * K > has.end) return false;
    }
    return true;
  }

  /// The columns that this rank has of both, for an operation that changes y value by value; none
  /// if they are whole now. x then need not become whole any more.
  std::optional<Part> divided_alike(std::span<const T> y, std::span<const T> x) {
    mpi::Divided<T>* const of_y = find(y);
    mpi::Divided<T>* const of_x = find(x);
    if (of_y != nullptr && of_x != nullptr && of_y->columns == of_x->columns &&
        of_y->rows == of_x->rows) {
      of_x->is_wanted = false;
      return part(of_y->columns);
    }
    if (of_x != nullptr) of_x->is_wanted = true;  // it comes along
    complete(y);
    complete(x);
    return {};
  }

  std::shared_ptr<Shared> shared_;
  mpi::DividedResults<T> results_;
};

}  // namespace ds4::inline v0_1
