// There are no more hash-routed layers than layers.
// expect: ds4::ModelConfig: num_hash_layers must not exceed num_hidden_layers
// expect-gcc: num_hash_layers = 44; num_hidden_layers = 43
// expect-clang: hash_layers_fit<44, 43>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t num_hash_layers = 44;
#endif
};
static_assert(ds4::checked_config<Mine>());
