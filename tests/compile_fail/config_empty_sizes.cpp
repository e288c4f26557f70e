// Every size is at least 1, and the message shows which one is not.
// expect: ds4::ModelConfig: every size must be at least 1
// expect-gcc: vocab_size = 0
// expect-gcc: hidden_size = 0
// expect-gcc: num_hidden_layers = 0
// expect-gcc: head_dim = 0
// expect-gcc: q_lora_rank = 0
// expect-gcc: o_lora_rank = 0
// expect-gcc: moe_intermediate_size = 0
// expect-gcc: index_n_heads = 0
// expect-gcc: index_topk = 0
// expect-gcc: sliding_window = 0
// expect-gcc: hc_mult = 0
// expect-gcc: hc_sinkhorn_iters = 0
// expect-clang: nothing_is_empty<0, 4096, 43, 512, 1024, 1024, 2048, 64, 512, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 0, 43, 512, 1024, 1024, 2048, 64, 512, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 0, 512, 1024, 1024, 2048, 64, 512, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 0, 1024, 1024, 2048, 64, 512, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 512, 0, 1024, 2048, 64, 512, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 512, 1024, 0, 2048, 64, 512, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 512, 1024, 1024, 0, 64, 512, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 512, 1024, 1024, 2048, 0, 512, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 512, 1024, 1024, 2048, 64, 0, 128, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 512, 1024, 1024, 2048, 64, 512, 0, 4, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 512, 1024, 1024, 2048, 64, 512, 128, 0, 20>
// expect-clang: nothing_is_empty<129280, 4096, 43, 512, 1024, 1024, 2048, 64, 512, 128, 4, 0>
#include <cstddef>

#include <ds4/config/config.hpp>

template <std::size_t Field>
struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t vocab_size = Field == 0 ? 0 : Flash::vocab_size;
  static constexpr std::size_t hidden_size = Field == 1 ? 0 : Flash::hidden_size;
  static constexpr std::size_t num_hidden_layers = Field == 2 ? 0 : Flash::num_hidden_layers;
  static constexpr std::size_t head_dim = Field == 3 ? 0 : Flash::head_dim;
  static constexpr std::size_t q_lora_rank = Field == 4 ? 0 : Flash::q_lora_rank;
  static constexpr std::size_t o_lora_rank = Field == 5 ? 0 : Flash::o_lora_rank;
  static constexpr std::size_t moe_intermediate_size =
      Field == 6 ? 0 : Flash::moe_intermediate_size;
  static constexpr std::size_t index_n_heads = Field == 7 ? 0 : Flash::index_n_heads;
  static constexpr std::size_t index_topk = Field == 8 ? 0 : Flash::index_topk;
  static constexpr std::size_t sliding_window = Field == 9 ? 0 : Flash::sliding_window;
  static constexpr std::size_t hc_mult = Field == 10 ? 0 : Flash::hc_mult;
  static constexpr std::size_t hc_sinkhorn_iters = Field == 11 ? 0 : Flash::hc_sinkhorn_iters;
#endif
};
static_assert(ds4::checked_config<Mine<0>>());
static_assert(ds4::checked_config<Mine<1>>());
static_assert(ds4::checked_config<Mine<2>>());
static_assert(ds4::checked_config<Mine<3>>());
static_assert(ds4::checked_config<Mine<4>>());
static_assert(ds4::checked_config<Mine<5>>());
static_assert(ds4::checked_config<Mine<6>>());
static_assert(ds4::checked_config<Mine<7>>());
static_assert(ds4::checked_config<Mine<8>>());
static_assert(ds4::checked_config<Mine<9>>());
static_assert(ds4::checked_config<Mine<10>>());
static_assert(ds4::checked_config<Mine<11>>());
