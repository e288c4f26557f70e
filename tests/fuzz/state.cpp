// Fuzz target: a saved state, as it is and with what no damage survives set right, its beginning
// and its checksum.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <sstream>
#include <streambuf>
#include <string>
#include <string_view>
#include <vector>

#include <fuzz/fuzz.hpp>

#include <ds4/config.hpp>
#include <ds4/detail/checked_stream.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/state.hpp>

namespace {

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
  static constexpr ds4::CompressRates compress_rates{2, 5};
  static constexpr double rope_theta = 10000.0;
  static constexpr double compress_rope_theta = 160000.0;
  static constexpr ds4::RopeScaling rope_scaling{};
  static constexpr std::size_t hc_mult = 2;
  static constexpr std::size_t hc_sinkhorn_iters = 2;
  static constexpr double hc_eps = 1e-6;
  static constexpr double rms_norm_eps = 1e-6;
  static constexpr std::size_t max_position_embeddings = 4096;
  static constexpr std::size_t num_nextn_predict_layers = 0;
};
static_assert(ds4::checked_config<Config>());

using State = ds4::State<Config, ds4::Reference<float>>;

std::string saved(const State& state) {
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

/// bytes with the beginning of a saved state, and the checksum of all pieces before the last one in
/// its place.
std::string repaired(std::string_view bytes) {
  static const std::string empty = saved(State());
  constexpr std::size_t kBeginning = 8 + 4 + 8;  // magic, version, fingerprint
  if (bytes.size() < kBeginning) return std::string(bytes);
  std::string out = empty.substr(0, kBeginning) + std::string(bytes.substr(kBeginning));
  Pieces pieces(out);
  std::istream stream(&pieces);
  try {
    State::deserialise(stream);
  } catch (const ds4::Error&) {
  }
  ds4::detail::Checksum sum;
  std::size_t at = 0;
  for (std::size_t i = 0; i + 1 < pieces.sizes().size(); ++i) {
    sum.add(std::as_bytes(std::span(out).subspan(at, pieces.sizes()[i])));
    at += pieces.sizes()[i];
  }
  const std::uint64_t value = sum.value();
  if (out.size() < at + sizeof value) out.resize(at + sizeof value);
  std::memcpy(out.data() + at, &value, sizeof value);
  return out;
}

void read(const std::string& bytes) {
  using namespace ds4;
  fuzz::result_or_error([&] {
    std::istringstream stream(bytes);
    State state = State::deserialise(stream);
    // A state that was read is one that can be used.
    const std::string copy = saved(state);
    fuzz::require(bytes.starts_with(copy), "a state that is not what the file says");
    State fork = state.fork();
    state.bytes();
    state.rollback(state.rollback_available());
    fuzz::require(state.rollback_available() == 0, "a rollback that does not go all the way");
    std::istringstream rolled(saved(state));
    State::deserialise(rolled);
    fuzz::require(saved(fork) == copy, "a fork that changes with the original");
    fork.advance(1);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  if (const std::string other = repaired(bytes); other != bytes) read(other);
  return 0;
}
