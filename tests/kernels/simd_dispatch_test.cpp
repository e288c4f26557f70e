// Which kernels a backend takes unless told.
#include <cstdlib>
#include <optional>
#include <string>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/training.hpp>

namespace {

constexpr const char* kVariable = "DS4_SIMD";

/// The environment variable as a test wants it; afterwards it is as it was.
class Chosen {
 public:
  explicit Chosen(const char* value) {
    if (const char* const before = std::getenv(kVariable)) before_ = before;
    set(value);
  }
  ~Chosen() { set(before_ ? before_->c_str() : nullptr); }
  Chosen(const Chosen&) = delete;
  Chosen& operator=(const Chosen&) = delete;

 private:
  static void set(const char* value) {
    if (value != nullptr) {
      ::setenv(kVariable, value, 1);
    } else {
      ::unsetenv(kVariable);
    }
  }

  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("simd: a backend takes the machine's best kernels, or those that DS4_SIMD names") {
  const auto available = ds4::simd::available_kernels();
  REQUIRE_FALSE(available.empty());
  {
    const Chosen best(nullptr);
    CHECK(ds4::Simd().instruction_set() == std::string(available.front()->name));
    CHECK(ds4::SimdTraining().instruction_set() == std::string(available.front()->name));
  }
  for (const ds4::simd::Kernels* kernels : available) {
    const Chosen one(kernels->name);
    CHECK(&ds4::Simd().kernels() == kernels);
    CHECK(ds4::SimdTraining().instruction_set() == std::string(kernels->name));
  }
  const Chosen none("none");
  CHECK_THROWS_AS(ds4::Simd(), ds4::Error);
  CHECK_THROWS_AS(ds4::SimdTraining(), ds4::Error);
}
