// A state of a few values, and what sets right in a saved one what no damage survives.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <span>
#include <sstream>
#include <streambuf>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/core/checked_stream.hpp>
#include <ds4/core/error.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/state/state.hpp>

namespace ds4::fuzz {

/// Every kind of layer, rows of a few values.
struct Config {
  static constexpr std::string_view name = "fuzz";
  static constexpr std::size_t vocab_size = 16;
  static constexpr std::size_t hidden_size = 4;
  static constexpr std::size_t num_hidden_layers = 3;
  static constexpr std::size_t num_attention_heads = 2;
  static constexpr std::size_t head_dim = 4;
  static constexpr std::size_t qk_rope_head_dim = 2;
  static constexpr std::size_t q_lora_rank = 2;
  static constexpr std::size_t o_groups = 1;
  static constexpr std::size_t o_lora_rank = 2;
  static constexpr std::size_t n_routed_experts = 2;
  static constexpr std::size_t num_experts_per_tok = 1;
  static constexpr std::size_t moe_intermediate_size = 2;
  static constexpr double routed_scaling_factor = 1.5;
  static constexpr double swiglu_limit = 10.0;
  static constexpr std::size_t num_hash_layers = 1;
  static constexpr std::size_t index_n_heads = 2;
  static constexpr std::size_t index_head_dim = 2;
  static constexpr std::size_t index_topk = 2;
  static constexpr std::size_t sliding_window = 3;
  static constexpr std::array<std::size_t, 3> compress_ratios{0, 2, 5};
  static constexpr CompressRates compress_rates{2, 5};
  static constexpr double rope_theta = 10000.0;
  static constexpr double compress_rope_theta = 160000.0;
  static constexpr RopeScaling rope_scaling{};
  static constexpr std::size_t hc_mult = 2;
  static constexpr std::size_t hc_sinkhorn_iters = 2;
  static constexpr double hc_eps = 1e-6;
  static constexpr double rms_norm_eps = 1e-6;
  static constexpr std::size_t max_position_embeddings = 4096;
  static constexpr std::size_t num_nextn_predict_layers = 1;
  static constexpr std::size_t dspark_stages = 2;
  static constexpr std::size_t dspark_block_size = 2;
  static constexpr std::size_t dspark_noise_token_id = 3;
  static constexpr std::array<std::size_t, 1> dspark_target_layer_ids{2};
  static constexpr std::size_t dspark_markov_rank = 2;
};
static_assert(checked_config<Config>());

using State = ds4::State<Config, Reference<float>>;

inline std::string saved(const State& state) {
  std::ostringstream stream;
  state.serialise(stream);
  return stream.str();
}

/// Gives bytes, and keeps in which pieces they are taken.
class Pieces : public std::streambuf {
 public:
  explicit Pieces(std::string_view bytes) : rest_(bytes) {}
  const std::vector<std::size_t>& sizes() const { return sizes_; }

 protected:
  std::streamsize xsgetn(char* to, std::streamsize count) override {
    const std::size_t size = std::min(rest_.size(), static_cast<std::size_t>(count));
    std::memcpy(to, rest_.data(), size);
    rest_.remove_prefix(size);
    sizes_.push_back(size);
    return static_cast<std::streamsize>(size);
  }

 private:
  std::string_view rest_;
  std::vector<std::size_t> sizes_;
};

/// The sizes of the pieces that `read` takes from a stream of these bytes, whether or not it
/// throws.
template <class Read>
std::vector<std::size_t> pieces_of(std::string_view bytes, Read&& read) {
  Pieces pieces(bytes);
  std::istream stream(&pieces);
  try {
    read(stream);
  } catch (const Error&) {
  }
  return pieces.sizes();
}

/// Puts the checksum of the pieces before the last one, but for `others` of them from number
/// `first` on, where the last one is, behind the end of the bytes if need be.
inline void repair_checksum(std::string& bytes, const std::vector<std::size_t>& pieces,
                            std::size_t first = 0, std::size_t others = 0) {
  detail::Checksum sum;
  std::size_t at = 0;
  for (std::size_t i = 0; i + 1 < pieces.size(); ++i) {
    const bool is_other = i >= first && i < first + others;
    if (!is_other) sum.add(std::as_bytes(std::span(bytes).subspan(at, pieces[i])));
    at += pieces[i];
  }
  const std::uint64_t value = sum.value();
  if (bytes.size() < at + sizeof value) bytes.resize(at + sizeof value);
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

/// bytes with the beginning of a saved state, and the checksum of all pieces before the last one in
/// its place.
inline std::string repaired_state(std::string_view bytes) {
  static const std::string empty = saved(State());
  constexpr std::size_t kBeginning = 8 + 4 + 8;  // magic, version, fingerprint
  if (bytes.size() < kBeginning) return std::string(bytes);
  std::string out = empty.substr(0, kBeginning) + std::string(bytes.substr(kBeginning));
  repair_checksum(out, pieces_of(out, [](std::istream& in) { State::deserialise(in); }));
  return out;
}

}  // namespace ds4::fuzz
