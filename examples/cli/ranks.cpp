#include "cli/ranks.hpp"

#include <algorithm>
#include <any>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/kernels/mpi/agreement.hpp>
#include <ds4/kernels/mpi/ranks.hpp>

#include "cli/io.hpp"

namespace ds4::cli {
namespace {

using StateId = std::uint64_t;

/// What rank 0 has the others do.
enum class Order : std::uint8_t {
  quit,
  load,
  unload,
  new_state,
  copy_state,
  drop_state,
  keep_drafts,
  rollback,
  load_session,
  random_state,
  prefill,
  forward,
  mtp_logits,
  draft_logits,
};

/// A message as it is written.
class Writer {
 public:
  template <class T>
    requires std::is_trivially_copyable_v<T>
  Writer& add(const T& value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof(T));
    return *this;
  }
  template <class T>
  Writer& add_all(std::span<const T> values) {
    add(static_cast<std::uint64_t>(values.size()));
    const auto bytes = std::as_bytes(values);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Writer& add_text(std::string_view text) { return add_all(std::span(text.data(), text.size())); }

  std::vector<std::byte> take() { return std::exchange(bytes_, {}); }

 private:
  std::vector<std::byte> bytes_;
};

/// A message as it is read: what rank 0 wrote, in this order.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool at_end() const { return bytes_.empty(); }
  template <class T>
  T get() {
    T value;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return value;
  }
  template <class T>
  std::vector<T> get_all() {
    std::vector<T> values(get<std::uint64_t>());
    std::memcpy(values.data(), bytes_.data(), values.size() * sizeof(T));
    bytes_ = bytes_.subspan(values.size() * sizeof(T));
    return values;
  }
  std::string get_text() {
    const auto text = get_all<char>();
    return {text.begin(), text.end()};
  }

 private:
  std::span<const std::byte> bytes_;
};

/// How ranks reach each other beside their models.
class Line {
 public:
  Line() {
    MPI_Comm_dup(MPI_COMM_WORLD, &orders_);
    MPI_Comm_dup(MPI_COMM_WORLD, &failures_);
  }

  /// Rank 0's message for all others.
  void send(std::vector<std::byte> message) {
    std::uint64_t size = message.size();
    // As in receive(): a collective that blocks does not match one that does not.
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ibcast(&size, 1, MPI_UINT64_T, 0, orders_, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Bcast(message.data(), static_cast<int>(size), MPI_BYTE, 0, orders_);
  }
  /// The next one. A rank that waits for long leaves the processor to others.
  std::vector<std::byte> receive() {
    std::uint64_t size = 0;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ibcast(&size, 1, MPI_UINT64_T, 0, orders_, &request);
    wait(request, {});
    std::vector<std::byte> message(size);
    MPI_Bcast(message.data(), static_cast<int>(size), MPI_BYTE, 0, orders_);
    return message;
  }

  /// Calls f(), as all ranks do. Where it throws on all of them, so does this. Where another rank
  /// does not come out with an exception soon, ends all ranks with a line about this one's.
  template <class F>
  auto together(F&& f) {
    try {
      return f();
    } catch (const std::exception& error) {
      if (!all_fail()) end_all(error.what());
      throw;
    }
  }

  /// Ends all ranks with this rank's line.
  [[noreturn]] static void end_all(std::string_view what) {
    const int rank = mpi::World::rank();
    constexpr std::string_view kName = "ds4: ";
    if (what.starts_with(kName)) what.remove_prefix(kName.size());
    complain("ds4: rank " + std::to_string(rank) + " on " + mpi::host_name() + ": " +
             std::string(what));
    mpi::World::end_all();
  }

 private:
  using Clock = std::chrono::steady_clock;

  /// False if `seconds` are over first.
  static bool wait(MPI_Request& request, std::optional<double> seconds) {
    const auto start = Clock::now();
    for (;;) {
      int done = 0;
      MPI_Test(&request, &done, MPI_STATUS_IGNORE);
      if (done != 0) return true;
      const double waited = std::chrono::duration<double>(Clock::now() - start).count();
      if (seconds && waited > *seconds) return false;
      if (waited > 0.005) std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  bool all_fail() {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ibarrier(failures_, &request);
    // Not all at once, so that one line tells what is wrong.
    const double part =
        static_cast<double>(mpi::World::rank()) / static_cast<double>(mpi::World::size());
    return wait(request, 1.0 + 2.0 * part);
  }

  MPI_Comm orders_ = MPI_COMM_NULL;
  MPI_Comm failures_ = MPI_COMM_NULL;
};

std::shared_ptr<Line>& line() {
  static std::shared_ptr<Line> of_all;
  return of_all;
}

/// Every stage, as observers know them.
constexpr auto kStages = std::to_array<std::string_view>({"attn.input",
                                                          "attn.kv_rope",
                                                          "attn.o_a",
                                                          "attn.out_unrotated",
                                                          "attn.output",
                                                          "attn.q_residual",
                                                          "attn.q_rope",
                                                          "attn_hc.collapsed",
                                                          "attn_hc.comb",
                                                          "attn_hc.post",
                                                          "compressor.kv",
                                                          "ffn_hc.collapsed",
                                                          "ffn_hc.comb",
                                                          "ffn_hc.post",
                                                          "final_norm",
                                                          "hc_head",
                                                          "indexer.kv",
                                                          "indexer.q",
                                                          "indexer.topk",
                                                          "indexer.weights",
                                                          "main_x",
                                                          "mlp.input",
                                                          "mlp.output",
                                                          "mlp.routed",
                                                          "mlp.router_indices",
                                                          "mlp.router_logits",
                                                          "mlp.router_weights",
                                                          "mlp.shared",
                                                          "output",
                                                          "target_hidden"});
static_assert(kStages.size() <= 64);
/// Layers that may be observed: those of the model and of a drafter.
constexpr std::size_t kDrafterLayers = 8;

/// The stages that an observer wants, by layer: all ranks have to agree about them, as what is
/// shown is gathered.
using Wanted = std::vector<std::uint64_t>;
Wanted wanted_by(const StageObserver<float>* observer, const ConfigValues& config) {
  if (observer == nullptr) return {};
  Wanted wanted(config.num_hidden_layers + kDrafterLayers);
  for (std::size_t layer = 0; layer < wanted.size(); ++layer) {
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      if (observer->wants(layer, kStages[i])) {
        wanted[layer] |= std::uint64_t{1} << i;
      }
    }
  }
  return wanted;
}

/// Wants these stages, and shows them to rank 0's observer.
class AgreedObserver final : public StageObserver<float> {
 public:
  AgreedObserver(Wanted wanted, StageObserver<float>* observer)
      : wanted_(std::move(wanted)), observer_(observer) {}

  /// Itself, if anything is observed.
  StageObserver<float>* get() { return wanted_.empty() ? nullptr : this; }

  bool wants(std::size_t layer, std::string_view stage) const override {
    if (layer >= wanted_.size()) return false;
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      if (kStages[i] == stage) return (wanted_[layer] >> i & 1u) != 0;
    }
    return false;
  }
  void values(std::size_t layer, std::string_view stage, std::span<const float> shown) override {
    if (observer_ != nullptr) observer_->values(layer, stage, shown);
  }
  void indices(std::size_t layer, std::string_view stage,
               std::span<const std::int32_t> shown) override {
    if (observer_ != nullptr) observer_->indices(layer, stage, shown);
  }
  void begin_pass(std::span<const Segment> segments, std::size_t logits) override {
    if (observer_ != nullptr) observer_->begin_pass(segments, logits);
  }
  void begin_layer(const LayerInfo& layer) override {
    if (observer_ != nullptr) observer_->begin_layer(layer);
  }
  void begin_region(std::string_view name) override {
    if (observer_ != nullptr) observer_->begin_region(name);
  }
  void end() noexcept override {
    if (observer_ != nullptr) observer_->end();
  }

 private:
  Wanted wanted_;
  StageObserver<float>* observer_;
};

/// What rank 0 still has to tell: the others learn of copies and ends of states with the next
/// order.
struct Outbox {
  Writer notes;
  StateId last = 0;  // that was given to a state

  StateId note_new() { return ++last; }
  /// Sends all notes and the order behind them.
  void send(Writer order) {
    std::vector<std::byte> message = notes.take();
    const std::vector<std::byte> own = order.take();
    message.insert(message.end(), own.begin(), own.end());
    line()->send(std::move(message));
  }
};

/// Rank 0's state, and the number that the other ranks know it by.
class SharedState {
 public:
  SharedState(std::shared_ptr<Outbox> outbox, StateId id, AnyState own)
      : own_(std::move(own)), outbox_(std::move(outbox)), id_(id) {}
  SharedState(const SharedState& other)
      : own_(other.own_), outbox_(other.outbox_), id_(outbox_->note_new()) {
    outbox_->notes.add(Order::copy_state).add(other.id_).add(id_);
  }
  SharedState(SharedState&& other) noexcept
      : own_(std::move(other.own_)), outbox_(std::move(other.outbox_)), id_(other.id_) {}
  SharedState& operator=(SharedState other) noexcept {
    std::swap(own_, other.own_);
    std::swap(outbox_, other.outbox_);
    std::swap(id_, other.id_);
    return *this;
  }
  ~SharedState() {
    if (outbox_ != nullptr) outbox_->notes.add(Order::drop_state).add(id_);
  }

  AnyState& own() { return own_; }
  const AnyState& own() const { return own_; }
  StateId id() const { return id_; }

 private:
  AnyState own_;
  std::shared_ptr<Outbox> outbox_;
  StateId id_;
};

SharedState& shared(AnyState& state) { return std::any_cast<SharedState&>(state); }
const SharedState& shared(const AnyState& state) {
  return std::any_cast<const SharedState&>(state);
}

/// Rank 0's model: tells the other ranks of each call before it makes it itself.
class LeadingModel final : public AnyModel {
 public:
  LeadingModel(std::unique_ptr<AnyModel> own, std::shared_ptr<Outbox> outbox)
      : own_(std::move(own)), outbox_(std::move(outbox)) {}
  LeadingModel(const LeadingModel&) = delete;
  LeadingModel& operator=(const LeadingModel&) = delete;
  ~LeadingModel() override { outbox_->send(std::move(Writer().add(Order::unload))); }

  const ConfigValues& config() const override { return own_->config(); }
  const Checkpoint& checkpoint() const override { return own_->checkpoint(); }
  AnyState new_state(std::size_t rollback_limit) const override {
    const StateId id = outbox_->note_new();
    outbox_->notes.add(Order::new_state).add(id).add(std::uint64_t{rollback_limit});
    return SharedState(outbox_, id, own_->new_state(rollback_limit));
  }
  ServedModel& served() override {
    throw Error("ds4 serve", "found several ranks, expected one process");
  }
  DrafterKind drafter() const override { return own_->drafter(); }
  void keep_drafts(AnyState& state) const override {
    outbox_->notes.add(Order::keep_drafts).add(shared(state).id());
    own_->keep_drafts(shared(state).own());
  }
  Logits mtp_logits(AnyState& state) override {
    return call(std::move(Writer().add(Order::mtp_logits).add(shared(state).id())),
                [&] { return own_->mtp_logits(shared(state).own()); });
  }
  Logits draft_logits(AnyState& state, std::int32_t next, std::size_t count,
                      StageObserver<float>* observer) override {
    const Wanted wanted = wanted_by(observer, config());
    AgreedObserver agreed(wanted, observer);
    return call(std::move(Writer()
                              .add(Order::draft_logits)
                              .add(shared(state).id())
                              .add(next)
                              .add(std::uint64_t{count})
                              .add_all(std::span<const std::uint64_t>(wanted))),
                [&] { return own_->draft_logits(shared(state).own(), next, count, agreed.get()); });
  }
  std::vector<std::int32_t> decode_with_drafts(AnyState&, std::int32_t, Sampler&, DraftLength&,
                                               std::size_t) override {
    throw Error("--draft", "found several ranks, expected one process or --draft off");
  }
  std::size_t position(const AnyState& state) const override {
    return own_->position(shared(state).own());
  }
  void rollback(AnyState& state, std::size_t tokens) const override {
    own_->rollback(shared(state).own(), tokens);
    outbox_->notes.add(Order::rollback).add(shared(state).id()).add(std::uint64_t{tokens});
  }
  void save_session(const std::filesystem::path& file, std::span<const std::int32_t> ids,
                    const AnyState& state) const override {
    own_->save_session(file, ids, shared(state).own());
  }
  AnySession load_session(const std::filesystem::path& file) const override {
    const StateId id = outbox_->note_new();
    AnySession session =
        call(std::move(Writer().add(Order::load_session).add(id).add_text(file.string())),
             [&] { return own_->load_session(file); });
    return {std::move(session.ids), SharedState(outbox_, id, std::move(session.state))};
  }
  std::size_t state_bytes(const AnyState& state) const override {
    return own_->state_bytes(shared(state).own());
  }
  std::size_t scratch_bytes() const override { return own_->scratch_bytes(); }
  std::size_t prefill_chunk() const override { return own_->prefill_chunk(); }
  AnyState random_state(std::size_t position, bool keep_drafts) override {
    const StateId id = outbox_->note_new();
    return SharedState(outbox_, id,
                       call(std::move(Writer()
                                          .add(Order::random_state)
                                          .add(id)
                                          .add(std::uint64_t{position})
                                          .add(keep_drafts)),
                            [&] { return own_->random_state(position, keep_drafts); }));
  }

  /// Asks `stop` between passes alone, as the others have to end where this rank does.
  Logits prefill(AnyState& state, std::span<const std::int32_t> ids, StageObserver<float>* observer,
                 const StopCheck& stop) override {
    constexpr std::size_t kPass = 512;
    if (!stop || ids.empty()) return prefill_all(state, ids, observer);
    std::optional<AnyState> before;
    if (ids.size() > kPass) before = state;
    Logits last;
    try {
      while (!ids.empty()) {
        if (stop()) throw Stopped();
        const auto pass = ids.first(std::min(kPass, ids.size()));
        last = prefill_all(state, pass, observer);
        ids = ids.subspan(pass.size());
      }
    } catch (...) {
      if (before) state = std::move(*before);
      throw;
    }
    return last;
  }
  Logits forward(std::span<const Sequence> batch, StageObserver<float>* observer,
                 const StopCheck& stop) override {
    if (stop && stop()) throw Stopped();
    const Wanted wanted = wanted_by(observer, config());
    AgreedObserver agreed(wanted, observer);
    Writer order;
    order.add(Order::forward).add(static_cast<std::uint64_t>(batch.size()));
    std::vector<Sequence> own;
    for (const Sequence& sequence : batch) {
      order.add(shared(*sequence.state).id()).add_all(sequence.ids);
      own.push_back({&shared(*sequence.state).own(), sequence.ids});
    }
    order.add_all(std::span<const std::uint64_t>(wanted));
    return call(std::move(order), [&] { return own_->forward(own, agreed.get()); });
  }
  std::vector<Launches> take_launches() override { return own_->take_launches(); }

 private:
  Logits prefill_all(AnyState& state, std::span<const std::int32_t> ids,
                     StageObserver<float>* observer) {
    const Wanted wanted = wanted_by(observer, config());
    AgreedObserver agreed(wanted, observer);
    return call(std::move(Writer()
                              .add(Order::prefill)
                              .add(shared(state).id())
                              .add_all(ids)
                              .add_all(std::span<const std::uint64_t>(wanted))),
                [&] { return own_->prefill(shared(state).own(), ids, agreed.get()); });
  }
  template <class F>
  std::invoke_result_t<F&> call(Writer order, F&& f) const {
    outbox_->send(std::move(order));
    return line()->together(f);
  }

  std::unique_ptr<AnyModel> own_;
  std::shared_ptr<Outbox> outbox_;
};

/// What another rank does: what rank 0 tells it, until that is to quit.
class Follower {
 public:
  void run() {
    for (;;) {
      const std::vector<std::byte> message = line()->receive();
      Reader reader(message);
      while (!reader.at_end()) {
        const auto order = reader.get<Order>();
        if (order == Order::quit) return;
        follow(order, reader);
      }
    }
  }

 private:
  void follow(Order order, Reader& in) {
    const auto id = [&] { return in.get<StateId>(); };
    const auto number = [&] { return static_cast<std::size_t>(in.get<std::uint64_t>()); };
    const auto observer = [&] { return AgreedObserver(in.get_all<std::uint64_t>(), nullptr); };
    switch (order) {
      case Order::quit:
        return;
      case Order::load: {
        const std::size_t model = number();
        const std::string dir = in.get_text();
        const std::size_t threads = number();
        const bool pin = in.get<bool>();
        const bool exact = in.get<bool>();
        const bool has_budget = in.get<bool>();
        const std::size_t budget = number();
        BackendOptions options{.threads = threads, .pin = pin, .exact = exact};
        if (has_budget) options.memory_budget = budget;
        if (const std::size_t chunk = number()) options.prefill_chunk = chunk;
        along([&] { model_ = compiled_models().at(model).load(dir, options); });
        return;
      }
      case Order::unload:
        states_.clear();
        model_.reset();
        return;
      case Order::new_state: {
        const StateId of = id();
        states_[of] = model_->new_state(number());
        return;
      }
      case Order::copy_state: {
        const StateId from = id();
        states_[id()] = states_.at(from);
        return;
      }
      case Order::drop_state:
        states_.erase(id());
        return;
      case Order::keep_drafts:
        model_->keep_drafts(states_.at(id()));
        return;
      case Order::rollback: {
        AnyState& state = states_.at(id());
        model_->rollback(state, number());
        return;
      }
      case Order::load_session: {
        const StateId of = id();
        const std::string file = in.get_text();
        along([&] { states_[of] = model_->load_session(file).state; });
        return;
      }
      case Order::random_state: {
        const StateId of = id();
        const std::size_t position = number();
        const bool keeps = in.get<bool>();
        along([&] { states_[of] = model_->random_state(position, keeps); });
        return;
      }
      case Order::prefill: {
        AnyState& state = states_.at(id());
        const auto ids = in.get_all<std::int32_t>();
        AgreedObserver agreed = observer();
        along([&] { model_->prefill(state, ids, agreed.get()); });
        return;
      }
      case Order::forward: {
        const std::size_t count = number();
        std::vector<AnyModel::Sequence> batch;
        std::vector<std::vector<std::int32_t>> ids(count);
        for (std::size_t i = 0; i < count; ++i) {
          AnyState& state = states_.at(id());
          ids[i] = in.get_all<std::int32_t>();
          batch.push_back({&state, ids[i]});
        }
        AgreedObserver agreed = observer();
        along([&] { model_->forward(batch, agreed.get()); });
        return;
      }
      case Order::mtp_logits: {
        AnyState& state = states_.at(id());
        along([&] { model_->mtp_logits(state); });
        return;
      }
      case Order::draft_logits: {
        AnyState& state = states_.at(id());
        const auto next = in.get<std::int32_t>();
        const std::size_t count = number();
        AgreedObserver agreed = observer();
        along([&] { model_->draft_logits(state, next, count, agreed.get()); });
        return;
      }
    }
  }

  /// Calls f(), which rank 0 does as well: what it throws is rank 0's to tell.
  template <class F>
  static void along(F&& f) {
    try {
      line()->together(f);
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
    }
  }

  std::unique_ptr<AnyModel> model_;
  std::map<StateId, AnyState> states_;
};

}  // namespace

bool is_on_ranks() { return mpi::is_launched(); }

int run_on_ranks(int (*program)(int, char**), int argc, char** argv) {
  if (!is_on_ranks()) return program(argc, argv);
  const mpi::World world;
  line() = std::make_shared<Line>();
  if (mpi::World::rank() > 0) {
    try {
      Follower().run();
    } catch (const std::exception& error) {
      Line::end_all(error.what());
    }
    return 0;
  }
  const auto quit = [] { line()->send(std::move(Writer().add(Order::quit)).take()); };
  int code = 1;
  // The others wait for an order wherever an exception comes from: see Line::together.
  try {
    code = program(argc, argv);
  } catch (...) {
    quit();
    MPI_Finalize();
    throw;
  }
  quit();
  return code;
}

std::unique_ptr<AnyModel> load_on_ranks(const CompiledModel& model,
                                        const std::filesystem::path& dir,
                                        const BackendOptions& options) {
  const auto own = std::ranges::find(compiled_models(), model.load, &CompiledModel::load);
  const auto index = static_cast<std::uint64_t>(own - compiled_models().begin());
  auto outbox = std::make_shared<Outbox>();
  outbox->send(std::move(Writer()
                             .add(Order::load)
                             .add(index)
                             .add_text(dir.string())
                             .add(std::uint64_t{options.threads})
                             .add(options.pin)
                             .add(options.exact)
                             .add(options.memory_budget.has_value())
                             .add(std::uint64_t{options.memory_budget.value_or(0)})
                             .add(std::uint64_t{options.prefill_chunk.value_or(0)})));
  return std::make_unique<LeadingModel>(line()->together([&] { return model.load(dir, options); }),
                                        std::move(outbox));
}

}  // namespace ds4::cli
