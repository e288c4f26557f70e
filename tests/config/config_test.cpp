// Tests of ds4/config/config.hpp. What must not compile is in compile_fail/config_*.cpp.
#include <array>
#include <cstddef>
#include <string_view>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>

namespace {

using ds4::AttentionKind;
using ds4::Flash;
using ds4::ModelConfig;
using ds4::Pro;
using ds4::RouterKind;

static_assert(ModelConfig<Flash>);
static_assert(ModelConfig<Pro>);
static_assert(ds4::checked_config<Flash>());
static_assert(ds4::checked_config<Pro>());

// What is no configuration.
struct Empty {};
static_assert(!ModelConfig<Empty>);
static_assert(!ModelConfig<int>);
struct WithoutField : Flash {
 private:
  using Flash::compress_rope_theta;
};
static_assert(!ModelConfig<WithoutField>);
struct WithoutName : Flash {
 private:
  using Flash::name;
};
static_assert(!ModelConfig<WithoutName>);
struct NameOfAnotherType : Flash {
  static constexpr int name = 3;
};
static_assert(!ModelConfig<NameOfAnotherType>);
struct RatiosAsNumber : Flash {
  static constexpr std::size_t compress_ratios = 4;
};
static_assert(!ModelConfig<RatiosAsNumber>);
struct ScalingAsNumber : Flash {
  static constexpr double rope_scaling = 16.0;
};
static_assert(!ModelConfig<ScalingAsNumber>);
struct FieldAsText : Flash {
  static constexpr std::string_view hidden_size = "4096";
};
static_assert(!ModelConfig<FieldAsText>);

// Any consistent type with the members is one.
struct Mine : Flash {
  static constexpr std::string_view name = "mine";
  static constexpr std::size_t num_hidden_layers = 2;
  static constexpr std::size_t num_hash_layers = 0;
  static constexpr std::array<int, 2> compress_ratios{16, 8};
  static constexpr ds4::CompressRates compress_rates{8, 16};
  static constexpr ds4::RopeScaling rope_scaling{};
  static constexpr std::size_t dspark_stages = 0;
};
static_assert(ModelConfig<Mine>);
static_assert(ds4::checked_config<Mine>());

// The limits of the checks are within.
struct AtLimits : Flash {
  static constexpr std::size_t qk_rope_head_dim = 128;
  static constexpr std::size_t index_head_dim = 128;
  static constexpr std::size_t head_dim = 128;
  static constexpr std::size_t num_experts_per_tok = 256;
  static constexpr std::size_t num_hash_layers = 43;
  static constexpr std::size_t o_groups = 64;
  static constexpr std::size_t num_nextn_predict_layers = 0;
  static constexpr double hc_eps = 0.0;
  static constexpr double rms_norm_eps = 0.0;
};
static_assert(ds4::checked_config<AtLimits>());

// A ratio stands for a kind of attention, and only the configuration says for which.
static_assert(ds4::attention_kind<Flash>(0) == AttentionKind::sliding);
static_assert(ds4::attention_kind<Flash>(4) == AttentionKind::csa);
static_assert(ds4::attention_kind<Flash>(128) == AttentionKind::hca);
static_assert(ds4::attention_kind<Mine>(8) == AttentionKind::csa);
static_assert(ds4::attention_kind<Mine>(16) == AttentionKind::hca);
static_assert(ds4::router_kind<Flash>(2) == RouterKind::hash);
static_assert(ds4::router_kind<Flash>(3) == RouterKind::learned);
static_assert(ds4::router_kind<Mine>(0) == RouterKind::learned);

static_assert(ds4::name_of(AttentionKind::sliding) == "sliding");
static_assert(ds4::name_of(AttentionKind::csa) == "csa");
static_assert(ds4::name_of(AttentionKind::hca) == "hca");
static_assert(ds4::name_of(RouterKind::hash) == "hash");
static_assert(ds4::name_of(RouterKind::learned) == "learned");

static_assert(ds4::RopeScaling{}.factor == 1.0, "no scaling unless stated");
static_assert(ds4::CompressRates{} == ds4::CompressRates{4, 128});
static_assert(ds4::CompressRates{} != ds4::CompressRates{128, 4});

/// The fields that both models share, model.md 1.
template <class C>
void check_common() {
  CHECK(C::vocab_size == 129280);
  CHECK(C::head_dim == 512);
  CHECK(C::qk_rope_head_dim == 64);
  CHECK(C::o_lora_rank == 1024);
  CHECK(C::num_experts_per_tok == 6);
  CHECK(C::swiglu_limit == 10.0);
  CHECK(C::num_hash_layers == 3);
  CHECK(C::index_n_heads == 64);
  CHECK(C::index_head_dim == 128);
  CHECK(C::sliding_window == 128);
  CHECK(C::compress_rates == ds4::CompressRates{4, 128});
  CHECK(C::rope_theta == 10000.0);
  CHECK(C::compress_rope_theta == 160000.0);
  CHECK(C::rope_scaling == ds4::RopeScaling{16.0, 65536.0, 32.0, 1.0});
  CHECK(C::hc_mult == 4);
  CHECK(C::hc_sinkhorn_iters == 20);
  CHECK(C::hc_eps == 1e-6);
  CHECK(C::rms_norm_eps == 1e-6);
  CHECK(C::max_position_embeddings == 1048576);
  CHECK(C::num_nextn_predict_layers == 1);
  REQUIRE(C::compress_ratios.size() == C::num_hidden_layers);
  CHECK(C::compress_ratios[2] == 4);
  for (std::size_t i = 3; i < C::num_hidden_layers; ++i) {
    CHECK(C::compress_ratios[i] == (i % 2 == 1 ? 128 : 4));
  }
}

}  // namespace

TEST_CASE("config: Flash is the released one") {
  CHECK(Flash::name == "flash");
  CHECK(Flash::hidden_size == 4096);
  CHECK(Flash::num_hidden_layers == 43);
  CHECK(Flash::num_attention_heads == 64);
  CHECK(Flash::q_lora_rank == 1024);
  CHECK(Flash::o_groups == 8);
  CHECK(Flash::n_routed_experts == 256);
  CHECK(Flash::moe_intermediate_size == 2048);
  CHECK(Flash::routed_scaling_factor == 1.5);
  CHECK(Flash::index_topk == 512);
  CHECK(Flash::compress_ratios[0] == 0);
  CHECK(Flash::compress_ratios[1] == 0);
  check_common<Flash>();
}

TEST_CASE("config: Pro is the released one") {
  CHECK(Pro::name == "pro");
  CHECK(Pro::hidden_size == 7168);
  CHECK(Pro::num_hidden_layers == 61);
  CHECK(Pro::num_attention_heads == 128);
  CHECK(Pro::q_lora_rank == 1536);
  CHECK(Pro::o_groups == 16);
  CHECK(Pro::n_routed_experts == 384);
  CHECK(Pro::moe_intermediate_size == 3072);
  CHECK(Pro::routed_scaling_factor == 2.5);
  CHECK(Pro::index_topk == 1024);
  CHECK(Pro::compress_ratios[0] == 128);
  CHECK(Pro::compress_ratios[1] == 128);
  check_common<Pro>();
}
