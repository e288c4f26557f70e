// A model of an inconsistent configuration says which fields do not agree.
// expect: ds4::ModelConfig: compress_ratios must have num_hidden_layers entries
// expect-gcc: compress_ratios_size = 43; num_hidden_layers = 44
// expect-clang: one_ratio_per_layer<43, 44>
#include <cstddef>

#include <ds4/kernels/reference.hpp>
#include <ds4/model.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t num_hidden_layers = 44;
#endif
};
auto state_of(const ds4::Model<Mine, ds4::Reference<float>>& model) { return model.new_state(); }
