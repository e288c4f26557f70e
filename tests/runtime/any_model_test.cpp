#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/reference.hpp>
#include <ds4/runtime/simd.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace {

using ds4::AnyModel;
using ds4::AnyState;
using ds4::Logits;
using ds4::models::tiny_flash;

std::vector<float> copied(const Logits& logits) {
  return {logits.values.begin(), logits.values.end()};
}

}  // namespace

TEST_CASE_TEMPLATE("any_model: gives the logits of the typed model, bit for bit", B, ds4::Simd,
                   ds4::Reference<float>) {
  const auto dir = ds4::test::data_dir("tiny-flash");
  const ds4::CompiledModel compiled = ds4::compiled_model<tiny_flash, B>();
  const std::unique_ptr<AnyModel> any = compiled.load(dir, {});
  auto typed = ds4::Model<tiny_flash, B>::load(dir);
  const std::vector<std::int32_t> ids{0, 5, 7, 11, 3};

  AnyState state = any->new_state();
  auto typed_state = typed.new_state();
  const Logits logits = any->prefill(state, ids);
  const auto expected = typed.prefill(typed_state, ids);
  CHECK(std::ranges::equal(logits.values, expected.flat()));
  CHECK(any->position(state) == ids.size());

  // Logits stay what they are when the model goes on; a copied state is a second sequence.
  const std::vector<float> before = copied(logits);
  AnyState fork = state;
  const std::int32_t next = ds4::argmax(logits.values);
  const std::vector<float> first = copied(any->decode(state, next));
  CHECK(copied(logits) == before);
  CHECK(any->position(fork) == ids.size());
  CHECK(copied(any->decode(fork, next)) == first);

  any->rollback(state, 1);
  CHECK(copied(any->decode(state, next)) == first);

  AnyState other = any->new_state();
  const std::vector<AnyModel::Sequence> batch{{&fork, std::span(ids).first(2)}, {&other, ids}};
  const Logits rows = any->forward(batch);
  const std::size_t V = any->config().vocab_size;
  REQUIRE(rows.values.size() == 7 * V);
  CHECK(std::ranges::equal(rows.values.last(V), before));
}

TEST_CASE("any_model: a session goes on in another model of the same checkpoint") {
  const ds4::test::TempDir folder;
  const auto dir = ds4::test::data_dir("tiny-flash");
  const ds4::CompiledModel compiled = ds4::compiled_model<tiny_flash, ds4::Simd>();
  const std::unique_ptr<AnyModel> one = compiled.load(dir, {});
  const std::unique_ptr<AnyModel> two = compiled.load(dir, {});
  const std::vector<std::int32_t> ids{0, 5, 7, 11, 3};
  AnyState state = one->new_state();
  one->prefill(state, ids);
  one->save_session(folder.path() / "session", ids, state);
  ds4::AnySession session = two->load_session(folder.path() / "session");
  CHECK(session.ids == ids);
  CHECK(copied(two->decode(session.state, 9)) == copied(one->decode(state, 9)));
}

TEST_CASE("any_model: a state of another model is refused") {
  const auto dir = ds4::test::data_dir("tiny-flash");
  const auto simd = ds4::compiled_model<tiny_flash, ds4::Simd>().load(dir, {});
  const auto reference = ds4::compiled_model<tiny_flash, ds4::Reference<float>>().load(dir, {});
  constexpr const char* kRefused =
      "ds4: state: found one of another model, expected one that this model made";
  AnyState state = reference->new_state();
  CHECK_THROWS_WITH_AS(simd->decode(state, 0), kRefused, ds4::Error);
  AnyState none;
  CHECK_THROWS_WITH_AS(simd->decode(none, 0), kRefused, ds4::Error);
  CHECK_NOTHROW(reference->decode(state, 0));
}
