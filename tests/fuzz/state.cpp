// Fuzz target: a saved state, as it is and with its beginning and its checksum set right.
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <type_traits>

#include <fuzz/fuzz.hpp>
#include <fuzz/small_state.hpp>

namespace {

/// What Model::draft does to a state, its pass apart.
void draft(ds4::fuzz::State& state) {
  const std::size_t position = state.position();
  if (!state.keeps_drafts() || !state.drafts().reaches(position)) return;
  const ds4::Rows<float, ds4::fuzz::Config::head_dim> window_row(1);
  if (state.drafts().kind() == ds4::DrafterKind::mtp) {
    auto& mtp = ds4::detail::StateParts::drafts(state).mtp;
    const std::size_t first = mtp.next_row(position);
    const auto ids = mtp.next_ids(first);
    ds4::fuzz::require(first + ids.size() + 1 == position, "tokens that are not those of the rows");
    const ds4::Rows<float, std::remove_reference_t<decltype(mtp.streams)>::kWidth> row(1);
    for (std::size_t i = 0; i < ids.size() + 2; ++i) mtp.layer.window.append(window_row.view());
    mtp.streams.append(row.view());
  } else {
    auto& dspark = ds4::detail::StateParts::drafts(state).dspark;
    constexpr std::size_t kStages = ds4::fuzz::Config::dspark_stages;
    const std::size_t first = dspark.next_row(position, kStages);
    ds4::fuzz::require(first >= dspark.targets.first(), "rows without what they are made from");
    for (auto& stage : dspark.windows) {
      for (std::size_t t = first; t < position + ds4::fuzz::Config::dspark_block_size; ++t) {
        stage.window.append(window_row.view());
      }
    }
  }
  ds4::detail::StateParts::drafts(state).truncate(position);
}

void read(const std::string& bytes) {
  using namespace ds4;
  using fuzz::saved;
  using fuzz::State;
  fuzz::result_or_error([&] {
    std::istringstream stream(bytes);
    State state = State::deserialise(stream);
    // A state that was read is one that can be used.
    const std::string copy = saved(state);
    fuzz::require(bytes.starts_with(copy), "a state that is not what the file says");
    State fork = state;
    draft(fork);
    fuzz::require(saved(fork) == copy, "a draft that leaves a trace");
    state.bytes();
    state.rollback(state.rollback_available());
    fuzz::require(state.rollback_available() == 0, "a rollback that does not go all the way");
    std::istringstream rolled(saved(state));
    State::deserialise(rolled);
    fuzz::require(saved(fork) == copy, "a fork that changes with the original");
    const std::int32_t id = 0;
    ds4::detail::StateParts::advance(fork, {&id, 1});
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  if (const std::string other = ds4::fuzz::repaired_state(bytes); other != bytes) read(other);
  return 0;
}
