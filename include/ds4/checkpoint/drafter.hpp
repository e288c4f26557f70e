// What the tensors of a checkpoint say of its drafter, where config.json leaves it to them.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/messages.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// The part of "mtp.k.part" behind the number, and k; an empty part for another name.
struct DrafterTensor {
  std::size_t layer = 0;
  std::string_view part;
};
inline DrafterTensor drafter_tensor(std::string_view name) {
  constexpr std::string_view kPrefix = "mtp.";
  if (!name.starts_with(kPrefix)) return {};
  name.remove_prefix(kPrefix.size());
  DrafterTensor tensor;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), tensor.layer);
  name.remove_prefix(static_cast<std::size_t>(end - name.data()));
  if (error != std::errc() || !name.starts_with(".")) return {};
  tensor.part = name.substr(1);
  return tensor;
}

}  // namespace detail

/// The drafter that a checkpoint has tensors of, by its configuration. Of DSpark the number of
/// stages, the prefixes mtp.k., is then in `config`, whether its config.json said it or not. Throws
/// ds4::Error if the stages are not 0, 1, ... without a gap, not as many as config.json says, or if
/// tensors of a multi-token-prediction layer are beside them.
inline DrafterKind complete_drafter(ConfigValues& config, const Checkpoint& checkpoint) {
  constexpr std::array<std::string_view, 4> kMtpParts{"e_proj.", "h_proj.", "enorm.", "hnorm."};
  std::vector<std::size_t> layers;  // the numbers k, each once
  bool any = false;
  detail::Problems problems;
  for (const StoredTensor& stored : checkpoint.tensors()) {
    any = any || stored.name.starts_with("mtp.");
    const detail::DrafterTensor tensor = detail::drafter_tensor(stored.name);
    if (tensor.part.empty()) continue;
    layers.push_back(tensor.layer);
    const bool mtp = std::ranges::any_of(
        kMtpParts, [&](std::string_view part) { return tensor.part.starts_with(part); });
    if (config.has_dspark && mtp) {
      problems.add(detail::printable(stored.stored_name) +
                   ": found a tensor of a multi-token-prediction layer, expected none beside the "
                   "dspark_* fields of config.json");
    }
  }
  if (!any) return DrafterKind::none;
  if (!config.has_dspark) {
    return config.num_nextn_predict_layers > 0 ? DrafterKind::mtp : DrafterKind::none;
  }
  std::ranges::sort(layers);
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  const std::size_t stages = config.dspark_stages > 0 ? config.dspark_stages : layers.size();
  if (layers.size() > detail::kMaxStages) {
    problems.add("mtp.*: found " + std::to_string(layers.size()) + " stages, expected at most " +
                 std::to_string(detail::kMaxStages));
  } else if (layers.size() != stages || layers.empty() || layers.back() + 1 != stages) {
    problems.add("mtp.*: found stages " + detail::field_text(layers) + ", expected " +
                 (config.dspark_stages > 0 ? std::to_string(stages) + " as config.json says"
                                           : std::string("0, 1, ... without a gap")));
  }
  problems.throw_if_any(detail::printable_path(checkpoint.path()));
  config.dspark_stages = stages;
  return DrafterKind::dspark;
}

}  // namespace ds4::inline v0_1
