// Sequences that tests feed to the models in tests/data.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <support/golden.hpp>

namespace ds4::test {

/// The folder in tests/data of a model's configuration.
template <class M>
std::string folder_of() {
  std::string folder(M::Config::name);
  std::replace(folder.begin(), folder.end(), '_', '-');
  return folder;
}
template <class M>
M model_of() {
  return M::load(data_dir(folder_of<M>()));
}

template <class M>
using BackendOf = std::remove_cvref_t<decltype(std::declval<const M&>().backend())>;

/// The same on one thread where its backend has several: tests run beside each other.
template <class M>
M model_on_one_thread(bool exact) {
  using B = BackendOf<M>;
  if constexpr (requires { B({.threads = 1, .exact = true}); }) {
    return M::load(data_dir(folder_of<M>()), B({.threads = 1, .exact = exact}));
  } else {
    return model_of<M>();
  }
}

/// The bytes that a state is saved as.
template <class State>
std::string saved(const State& state) {
  std::ostringstream stream;
  state.serialise(stream);
  return stream.str();
}

inline std::vector<std::int32_t> random_ids(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> ids(count);
  for (auto& id : ids) id = static_cast<std::int32_t>(random() % 256);
  return ids;
}

/// Lengths at which windows, entries and the indexer's choice begin or end, ascending.
template <class C>
std::vector<std::size_t> edges() {
  constexpr std::size_t kLimit = 4 * C::index_topk;
  return {3, 4, 5, kLimit - 1, kLimit, kLimit + 1, 127, 128, 129, 255, 256, 257, 511, 512, 513};
}

/// The logits of all tokens, fed in passes of these sizes, the last one repeated.
template <class M>
std::vector<float> feed(M& model, typename M::State& state, std::span<const std::int32_t> ids,
                        const std::vector<std::size_t>& sizes) {
  std::vector<float> logits;
  for (std::size_t pass = 0; !ids.empty(); ++pass) {
    const std::size_t size = std::min(ids.size(), sizes[std::min(pass, sizes.size() - 1)]);
    const auto rows = model.forward(state, ids.first(size));
    logits.insert(logits.end(), rows.flat().begin(), rows.flat().end());
    ids = ids.subspan(size);
  }
  return logits;
}

}  // namespace ds4::test
