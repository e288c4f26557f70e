// ds4 inspect: what a checkpoint is, and whether this program can run it.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/drafter.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/find_model.hpp>

#include "cli/io.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

/// "csa (ratio 4), learned router"
std::string layer_kind(const ConfigValues& config, std::size_t layer) {
  const std::size_t ratio = config.compress_ratios[layer];
  const CompressRates& rates = config.compress_rates;
  std::string text;
  if (ratio == 0) {
    text = name_of(AttentionKind::sliding);
  } else if (ratio == rates.compressed_sparse_attention) {
    text = name_of(AttentionKind::csa);
  } else if (ratio == rates.heavily_compressed_attention) {
    text = name_of(AttentionKind::hca);
  } else {
    text = "unknown";
  }
  if (ratio > 0) text += " (ratio " + std::to_string(ratio) + ")";
  const auto router = layer < config.num_hash_layers ? RouterKind::hash : RouterKind::learned;
  return text.append(", ").append(name_of(router)).append(" router");
}

std::string range(std::size_t first, std::size_t end) {
  std::string text = std::to_string(first);
  if (end - first > 1) text += "-" + std::to_string(end - 1);
  return text;
}

/// Runs of equal layers from first to end, one line each.
void list_layers(std::ostream& out, const ConfigValues& config, std::size_t first,
                 std::size_t end) {
  while (first < end) {
    const std::string kind = layer_kind(config, first);
    std::size_t next = first + 1;
    while (next < end && layer_kind(config, next) == kind) ++next;
    out << "  " << range(first, next) << ": " << kind << "\n";
    first = next;
  }
}

void list_schedule(std::ostream& out, const ConfigValues& config) {
  const Schedule schedule = schedule_of(config);
  const std::size_t L = config.num_hidden_layers;
  out << "layers: " << L << ": prefix of " << schedule.prefix << ", " << schedule.pairs
      << " x pair, suffix of " << schedule.suffix << "\n";
  list_layers(out, config, 0, schedule.prefix);
  if (schedule.pairs > 0) {
    out << "  " << range(schedule.prefix, L - schedule.suffix) << ": " << schedule.pairs << " x ["
        << layer_kind(config, schedule.prefix) << "; " << layer_kind(config, schedule.prefix + 1)
        << "]\n";
  }
  list_layers(out, config, L - schedule.suffix, L);
}

/// What the tensors of a checkpoint add up to. Block scales are not parameters.
struct Census {
  std::size_t tensors = 0;
  std::size_t extra_tensors = 0;     // mtp.*
  std::size_t image_tensors = 0;     // which are set aside
  std::size_t parameters = 0;        // without the two below and those that see images
  std::size_t extra_parameters = 0;  // mtp.*
  std::size_t hash_entries = 0;
  std::size_t bytes = 0;
  std::map<std::string_view, std::size_t> bytes_by_dtype;

  Census(const Checkpoint& checkpoint, const ConfigValues& config, DrafterKind drafter) {
    std::set<std::string> images;
    for (TensorInfo& tensor : list_vision_tensors(config, drafter)) {
      images.insert(std::move(tensor.name));
    }
    for (const StoredTensor& tensor : checkpoint.tensors()) {
      const bool extra = tensor.name.starts_with("mtp.");
      const bool image = images.contains(tensor.name);
      if (image) ++image_tensors;
      ++tensors;
      if (extra) ++extra_tensors;
      bytes += tensor.data.size();
      bytes_by_dtype[dtype_name(tensor.dtype)] += tensor.data.size();
      std::size_t count = tensor.data.size() / dtype_size(tensor.dtype);
      if (matrix_storage(tensor.dtype) == StoredFp4::kDType) count *= 2;
      if (tensor.name.ends_with(".tid2eid")) {
        hash_entries += count;
      } else if (!image && !tensor.name.ends_with(".scale")) {
        (extra ? extra_parameters : parameters) += count;
      }
    }
  }
};

/// "5530880 (5.5 M)"
std::string with_unit(std::size_t count) {
  static constexpr std::string_view kUnits = " kMGTPE";
  double value = static_cast<double>(count);
  std::size_t unit = 0;
  for (; value >= 1000.0; value /= 1000.0) ++unit;
  std::string text = std::to_string(count);
  if (unit > 0) {
    char rounded[32];
    std::snprintf(rounded, sizeof(rounded), " (%.1f %c)", value, kUnits[unit]);
    text += rounded;
  }
  return text;
}

/// Whether this program runs the checkpoint: found out by loading it.
std::string verdict(const ConfigValues& config, const std::filesystem::path& dir) {
  const std::string backend = backends_of(compiled_models()).front();
  const auto found = look_for_model(config, backend, plugin_place());
  if (!found) {
    const NearestModel nearest = nearest_model(compiled_models(), config, backend);
    return "no; the nearest model, " + nearest.model->config.name + ", differs in " +
           differences_in_words(nearest) +
           "\nto add it: " + command_that_adds(dir / "config.json", backend);
  }
  try {
    found->load(dir, {});
  } catch (const Error& error) {
    return std::string("no; ") + error.what();
  }
  return "yes, as " + found->config.name;
}

void inspect(const std::filesystem::path& dir) {
  ConfigValues config = read_config(dir / "config.json");
  const Checkpoint checkpoint = Checkpoint::open(dir);
  warn(checkpoint.warnings());
  DrafterKind drafter = DrafterKind::none;
  std::string broken;
  try {
    drafter = complete_drafter(config, checkpoint);
  } catch (const Error& error) {
    broken = error.what();
  }
  const Census census(checkpoint, config, drafter);

  std::ostringstream out;
  out << to_string(config);
  out << "bos_token_id: " << (config.bos_token_id ? std::to_string(*config.bos_token_id) : "none")
      << "\neos_token_id: " << detail::field_text(config.eos_token_ids) << "\n";
  list_schedule(out, config);
  out << "multi-token prediction: ";
  if (!broken.empty()) {
    out << "none that can be read: " << broken;
  } else if (drafter == DrafterKind::dspark) {
    out << "DSpark, stages: " << config.dspark_stages
        << ", tokens of a block: " << config.dspark_block_size << ": drafts with --draft";
  } else if (drafter == DrafterKind::mtp) {
    out << "one layer, sliding, learned router: drafts with --draft";
  } else if (census.extra_tensors > 0) {
    out << "none that config.json announces, mtp.* is set aside: no drafts";
  } else {
    out << "none: no drafts";
  }
  if (census.image_tensors > 0) {
    out << "\nimages: " << census.image_tensors << " tensors, set aside: text alone";
  }
  out << "\ntensors: " << census.tensors << ", of which " << census.extra_tensors
      << " for multi-token prediction"
      << "\nparameters: " << with_unit(census.parameters)
      << "\nparameters for multi-token prediction: " << with_unit(census.extra_parameters)
      << "\nhash table entries: " << with_unit(census.hash_entries)
      << "\nbytes: " << with_unit(census.bytes) << "\n";
  for (const auto& [dtype, bytes] : census.bytes_by_dtype) {
    out << "  " << dtype << ": " << with_unit(bytes) << "\n";
  }
  out << "this program runs it: " << verdict(config, dir) << "\n";
  print(out.str());
}

void add_options(Verb& verb) {
  auto dir = std::make_shared<std::string>();
  verb.add_option("DIR", *dir, "Folder of the checkpoint").required().check(expect_path());
  verb.callback([dir] { inspect(*dir); });
}

const VerbRegistration kInspect(70, "inspect",
                                "Describe a checkpoint and say whether this program can run it",
                                add_options);

}  // namespace

}  // namespace ds4::cli
