// Weights of any bits, as a file may have them: what comes out may be NaN, but experts and entries
// are those that there are, and a pass comes to its end.
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <sstream>
#include <string_view>

#include <doctest/doctest.h>

#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::test::random_ids;

/// Counts the choices, and those of an expert or an entry that cannot be.
template <class C>
class Choices : public ds4::StageObserver<float> {
 public:
  void values(std::size_t, std::string_view, std::span<const float>) override {}
  void indices(std::size_t, std::string_view stage,
               std::span<const std::int32_t> indices) override {
    const bool experts = stage == "mlp.router_indices";
    const auto end = experts ? C::n_routed_experts : tokens / 4;
    for (const std::int32_t index : indices) {
      ++all;
      if (index < (experts ? 0 : -1) || index >= static_cast<std::int32_t>(end)) ++wrong;
    }
  }

  std::size_t tokens = 0;  // so far: a CSA layer has an entry for four of them
  std::size_t all = 0;
  std::size_t wrong = 0;
};

template <class M>
void check_any_weights(const ds4::test::CheckpointCopy& copy) {
  const ds4::test::TempDir dir;
  copy.write(dir);
  auto model = M::load(dir.path());
  auto state = model.new_state();
  Choices<typename M::Config> choices;
  const auto ids = random_ids(200, 2);
  std::span<const std::int32_t> rest = ids;
  for (const std::size_t pass : {150u, 1u, 2u, 46u, 1u}) {
    choices.tokens += pass;
    model.forward(state, rest.first(pass), &choices);
    rest = rest.subspan(pass);
  }
  CHECK(choices.all > 0);
  CHECK(choices.wrong == 0);
  // Such a state is saved and loaded as any other.
  std::stringstream stream;
  state.serialise(stream);
  auto loaded = M::State::deserialise(stream);
  model.decode(loaded, 1);
  CHECK(loaded.position() == 201);
}

}  // namespace

TEST_CASE_TEMPLATE("model: weights of any bits", M, ds4::Model<ds4::models::tiny_flash>,
                   ds4::Model<ds4::models::tiny_flash, ds4::Simd>, ds4::Model<ds4::models::quant>,
                   ds4::Model<ds4::models::quant, ds4::Simd>) {
  // The hash router's tables are checked when they are loaded; all else may be anything.
  const auto change = [](ds4::test::CheckpointCopy& copy, auto&& f) {
    for (auto& [name, content] : copy.tensors) {
      if (!name.ends_with("tid2eid")) f(content.bytes);
    }
  };
  std::mt19937 random(1);
  const auto folder = ds4::test::folder_of<M>();
  {
    ds4::test::CheckpointCopy copy(folder);
    change(copy, [&](auto& bytes) {
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    });
    check_any_weights<M>(copy);
  }
  {  // few, so that NaN is met beside numbers
    ds4::test::CheckpointCopy copy(folder);
    change(copy, [&](auto& bytes) {
      for (std::size_t i = random() % 5000; i < bytes.size(); i += random() % 5000) {
        bytes[i] = static_cast<std::byte>(random());
      }
    });
    check_any_weights<M>(copy);
  }
  {  // NaN, all of them
    ds4::test::CheckpointCopy copy(folder);
    change(copy, [&](auto& bytes) {
      for (std::byte& byte : bytes) byte = std::byte{0xff};
    });
    check_any_weights<M>(copy);
  }
}
