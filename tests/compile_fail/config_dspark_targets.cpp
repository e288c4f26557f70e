// DSpark reads layers that are there.
// expect: ds4::ModelConfig: dspark_target_layer_ids must be below num_hidden_layers
// expect-gcc: dspark_target_layer_id = 43
// expect-clang: target_is_a_layer<43, 43>
#include <array>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::array<std::size_t, 3> dspark_target_layer_ids{41, 42, 43};
#endif
};
static_assert(ds4::checked_config<Mine>());
