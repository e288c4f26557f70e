// A layer of an inconsistent configuration says which fields do not agree.
// expect: ds4::ModelConfig: num_attention_heads must be a multiple of o_groups
// expect-gcc: num_attention_heads = 64; o_groups = 7
// expect-clang: heads_form_groups<64, 7>
#include <cstddef>

#include <ds4/kernels/reference.hpp>
#include <ds4/layers/decoder_layer.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t o_groups = 7;
#endif
};
using Layer = ds4::DecoderLayer<Mine, 4, ds4::RouterKind::learned, ds4::Reference<float>>;
static_assert(sizeof(Layer) > 0);
