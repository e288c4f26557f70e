// What a sequence keeps between passes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <istream>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/config/defaults.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/core/checked_stream.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/layers/decoder_layer.hpp>
#include <ds4/state/draft_state.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// What a pass, and nobody else, does to a state.
struct StateParts {
  ///@{
  /// What it writes to.
  template <class State>
  static auto& layers(State& state) {
    return state.layers_;
  }
  template <class State>
  static auto& drafts(State& state) {
    return state.drafts_;
  }
  template <class State, class F>
  static void for_each_log(State& state, F&& f) {
    state.visit_logs(state, f);
  }
  ///@}

  /// Before a pass of a model with this drafter, on a backend whose new states have rows of this
  /// type: what is kept for another drafter goes, and the type is settled if it is not yet.
  template <class State>
  static void expect(State& state, DrafterKind kind, DType row_type) {
    if (state.keeps_drafts_ && state.drafts_.kind() != kind) {
      state.drafts_.begin(kind, state.position_);
    }
    if (!state.row_type_) state.settle_rows(row_type);
  }
  /// From here on a pass writes to it: it is lost unless advance() follows.
  template <class State>
  static void begin_pass(State& state) {
    state.lost_ = true;
  }
  /// After a pass whose segment had this state's rollback_limit: these tokens are taken in.
  template <class State>
  static void advance(State& state, std::span<const std::int32_t> ids) {
    state.position_ += ids.size();
    state.earliest_ = std::max(state.earliest_,
                               state.position_ - std::min(state.position_, state.rollback_limit_));
    state.drafts_.take_in(ids);
    state.lost_ = false;
  }
};

}  // namespace detail

/// The decoding state of one sequence: a plain value. A copy is a second sequence with the same
/// past, or this one at this moment, to return to: it continues independently of the original and
/// shares its blocks until one of the two writes to them, where the backend's logs can (the SIMD
/// backend's do). Source: model.md 5.3 and 5.4.
template <ModelConfig C, Backend B>
class State {
  struct LayerStates {
    template <std::size_t Ratio, RouterKind Router>
    using element = typename DecoderLayer<C, Ratio, Router, B>::State;
  };

 public:
  /// What it is a state for.
  using Config = C;
  /// A state for each layer.
  using Layers = LayerSequence<C, LayerStates>;
  /// What is kept for the drafter.
  using Drafts = DraftState<C, B>;

  /// A state that can take back up to `rollback_limit` of its last tokens at any time. It keeps the
  /// rows that these would need: per token and layer, a row of the window, and in CSA and HCA
  /// layers the float32 projections of the compressors.
  explicit State(std::size_t rollback_limit = kDefaultRollbackLimit)
      : rollback_limit_(rollback_limit) {}

  /// How many tokens are taken in so far.
  std::size_t position() const { return position_; }
  /// As given to the constructor.
  std::size_t rollback_limit() const { return rollback_limit_; }
  /// How many tokens rollback can take back now.
  std::size_t rollback_available() const { return position_ - std::min(position_, earliest_); }

  /// Whether a pass that has not ended well has left it half written. Using it is then an error of
  /// kind lost; a copy from before the pass, or a saved state, can take its place.
  bool is_lost() const { return lost_; }
  /// Throws ds4::Error if it is lost.
  void check() const {
    if (!lost_) return;
    throw Error(ErrorKind::lost, "state",
                "found one that a failed pass has left half written, expected a whole one");
  }

  /// Takes back the last `tokens` tokens: what follows is, bit for bit, what would have followed
  /// without them. Throws ds4::Error, the state as before, beyond rollback_available(), and if the
  /// state is lost.
  void rollback(std::size_t tokens);

  /// From now on keeps what Model::draft needs, of the last W positions and of those that a
  /// rollback may take back: for a multi-token-prediction layer the residual streams, [N, D] in
  /// float32 each, for DSpark the target hidden states, [M * D]. A state that has taken in tokens
  /// before can draft after W more. Nothing changes if the configuration has no drafter.
  void keep_drafts() { keeps_drafts_ = Drafts::kHasMtp || Drafts::kHasDspark; }
  /// Whether it does.
  bool keeps_drafts() const { return keeps_drafts_; }
  /// What is kept for the drafter; empty unless keeps_drafts().
  const Drafts& drafts() const { return drafts_; }
  /// The type of all rows that may be rounded, of windows and entries alike: the backend's at the
  /// first pass, and the same ever since, whatever another backend has for its own. None before.
  std::optional<DType> row_type() const { return row_type_; }

  /// Bytes of memory that the rows occupy, shared ones included.
  std::size_t bytes() const;

  /// Writes the state: a version, the configuration's fingerprint, every row and a checksum.
  /// Throws ds4::Error that begins with `where` if the stream fails, and if the state is lost.
  void serialise(std::ostream& stream, const std::string& where = "state") const;

  /// A state that serialise wrote. The logits after it are bitwise those after the original, on the
  /// same backend with the same options. Another one can take it if it has rows of that type, which
  /// they keep: the SIMD backend's can be float32 or BF16, whatever its options are. Throws
  /// ds4::Error for anything else: another version or configuration, a damaged or truncated stream.
  /// Memory grows with what the stream holds, not with what it announces.
  static State deserialise(std::istream& stream, const std::string& where = "state");

  /// Calls f(log, tokens to a row, first_needed) for each log, in the order of the layers; see
  /// Attention::State.
  template <class F>
  void for_each_log(F&& f) const {
    visit_logs(*this, f);
  }

 private:
  friend struct detail::StateParts;

  static constexpr std::array<char, 8> kMagic{'d', 's', '4', 's', 't', 'a', 't', 'e'};
  static constexpr std::uint32_t kVersion = 3;

  /// Of every field of the configuration.
  static std::uint64_t fingerprint() {
    detail::Checksum sum;
    const std::string text = to_string(config_values<C>());
    sum.add(std::as_bytes(std::span(text)));
    return sum.value();
  }

  void settle_rows(DType type) {
    row_type_ = type;
    const auto settle = [&](auto& log, std::size_t, auto&&) {
      if (log.kReducible && log.end() == log.first()) log.restart(log.end(), type);
    };
    visit_logs(*this, settle);
  }

  template <class Self, class F>
  static void visit_logs(Self& self, F& f) {
    self.layers_.for_each([&](std::size_t, auto& layer) { layer.for_each_log(layer, f); });
    Drafts::for_each_log(self.drafts_, f);
  }

  std::size_t position_ = 0;
  Layers layers_;
  Drafts drafts_;
  std::size_t rollback_limit_;
  std::size_t earliest_ = 0;  // the position that a rollback can go back to
  bool keeps_drafts_ = false;
  bool lost_ = false;
  std::optional<DType> row_type_;
};

template <ModelConfig C, Backend B>
void State<C, B>::rollback(std::size_t tokens) {
  check();
  if (tokens > rollback_available()) {
    throw Error("rollback", "found " + std::to_string(tokens) + " tokens, expected at most " +
                                std::to_string(rollback_available()) +
                                ", what a rollback limit of " + std::to_string(rollback_limit_) +
                                " leaves");
  }
  position_ -= tokens;
  drafts_.truncate(position_);
  const auto truncate = [&](auto& log, std::size_t tokens_per_row, auto&&) {
    log.truncate(position_ / tokens_per_row);
  };
  visit_logs(*this, truncate);
}

template <ModelConfig C, Backend B>
std::size_t State<C, B>::bytes() const {
  std::size_t bytes = drafts_.derived_bytes();
  for_each_log([&](const auto& log, std::size_t, auto&&) { bytes += log.bytes(); });
  return bytes;
}

template <ModelConfig C, Backend B>
void State<C, B>::serialise(std::ostream& stream, const std::string& where) const {
  check();
  detail::CheckedWriter out(stream, where);
  out.value(kMagic);
  out.value(kVersion);
  out.value(fingerprint());
  for (const std::size_t number : {position_, rollback_limit_, earliest_}) {
    out.value(static_cast<std::uint64_t>(number));
  }
  out.value(static_cast<std::uint8_t>(keeps_drafts_));
  out.value(static_cast<std::uint8_t>(drafts_.kind()));
  for_each_log([&](const auto& log, std::size_t, auto&&) {
    out.value(static_cast<std::uint64_t>(log.first()));
    out.value(static_cast<std::uint8_t>(log.dtype()));
    std::vector<std::byte> row(log.kWidth * dtype_size(log.dtype()));
    for (std::size_t i = log.first(); i < log.end(); ++i) {
      log.copy_row(i, row.data());
      out.bytes(row);
    }
  });
  if constexpr (Drafts::kHasMtp) {
    if (drafts_.kind() == DrafterKind::mtp) out.bytes(std::as_bytes(std::span(drafts_.mtp.ids)));
  }
  out.finish();
}

template <ModelConfig C, Backend B>
State<C, B> State<C, B>::deserialise(std::istream& stream, const std::string& where) {
  detail::CheckedReader in(stream, where);
  if (in.value<std::array<char, 8>>() != kMagic) {
    in.fail("found something else, expected a state that ds4 saved");
  }
  if (const auto version = in.value<std::uint32_t>(); version != kVersion) {
    in.fail("found version " + std::to_string(version) + ", expected " + std::to_string(kVersion));
  }
  if (in.value<std::uint64_t>() != fingerprint()) {
    in.fail("found one of another configuration, expected one of " +
            std::string(std::string_view(C::name)));
  }
  const auto position = in.value<std::uint64_t>();
  State state(in.value<std::uint64_t>());
  state.position_ = position;
  state.earliest_ = in.value<std::uint64_t>();
  if (position > C::max_position_embeddings || state.earliest_ > position) {
    in.fail("found position " + std::to_string(position) + " and rollback to " +
            std::to_string(state.earliest_) + ", expected at most " +
            std::to_string(C::max_position_embeddings));
  }
  const auto keeps_drafts = in.value<std::uint8_t>();
  const auto kind = in.value<std::uint8_t>();
  constexpr bool kHasDrafter = Drafts::kHasMtp || Drafts::kHasDspark;
  if (keeps_drafts > (kHasDrafter ? 1 : 0) || (keeps_drafts == 0 && kind != 0) ||
      !Drafts::is_compiled(static_cast<DrafterKind>(kind))) {
    in.fail("found " + std::to_string(keeps_drafts) + " and " + std::to_string(kind) +
            " for what drafts need, expected what a drafter of this configuration keeps");
  }
  state.keeps_drafts_ = keeps_drafts != 0;
  std::size_t number = 0;
  const auto read = [&](auto& log, std::size_t end, std::size_t needed) {
    const std::string name = "log " + std::to_string(number++);
    const auto first = in.value<std::uint64_t>();
    if (first > needed) {
      in.fail(name + ": found rows from " + std::to_string(first) + " on, expected them from " +
              std::to_string(needed));
    }
    const auto code = in.value<std::uint8_t>();
    const auto dtype = static_cast<DType>(code);
    if (code > static_cast<std::uint8_t>(DType::u8) || !log.restart(first, dtype)) {
      in.fail(name + ": found rows of a type that this backend does not keep" +
              (code > static_cast<std::uint8_t>(DType::u8)
                   ? ""
                   : ", " + std::string(dtype_name(dtype))));
    }
    if (first == end) return log.restart(first);
    if (log.kReducible && state.row_type_.value_or(dtype) != dtype) {
      in.fail(name + ": found rows of " + std::string(dtype_name(dtype)) +
              ", expected the type of the others");
    }
    if (log.kReducible) state.row_type_ = dtype;
    std::vector<std::byte> row(log.kWidth * dtype_size(dtype));
    for (std::size_t i = first; i < end; ++i) {
      in.bytes(row);
      log.append_row(row.data());
    }
  };
  state.layers_.for_each([&](std::size_t, auto& layer) {
    layer.for_each_log(layer, [&](auto& log, std::size_t tokens_per_row, auto&& first_needed) {
      const std::size_t end = position / tokens_per_row;
      read(log, end, std::min(end, first_needed(state.earliest_)));
    });
  });
  state.drafts_.begin(static_cast<DrafterKind>(kind), position);
  Drafts::for_each_log(state.drafts_, [&](auto& log, std::size_t, auto&&) {
    read(log, position, position);  // they may have begun at any token
  });
  if constexpr (Drafts::kHasMtp) {
    if (state.drafts_.kind() == DrafterKind::mtp) {
      auto& mtp = state.drafts_.mtp;
      mtp.ids.resize(mtp.streams.end() - mtp.streams.first());
      in.bytes(std::as_writable_bytes(std::span(mtp.ids)));
      in.expect_ids(mtp.ids, C::vocab_size);
    }
  }
  in.finish();
  if (state.row_type_) state.settle_rows(*state.row_type_);
  return state;
}

}  // namespace ds4::inline v0_1
