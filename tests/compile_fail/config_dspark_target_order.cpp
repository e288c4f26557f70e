// DSpark reads its layers in their order, each once.
// expect: ds4::ModelConfig: dspark_target_layer_ids must be strictly increasing
// expect-gcc: next_dspark_target_layer_id = 41
// expect-clang: targets_ascend<41, 41>
#include <array>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::array<std::size_t, 3> dspark_target_layer_ids{41, 41, 42};
#endif
};
static_assert(ds4::checked_config<Mine>());
