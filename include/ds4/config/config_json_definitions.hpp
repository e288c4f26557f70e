// What config_json.hpp declares.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/inference_config.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/json.hpp>
#include <ds4/core/linkage.hpp>
#include <ds4/core/messages.hpp>

namespace ds4::inline v0_1 {

namespace detail {

template <class T>
inline constexpr bool kIsList = false;
template <class T>
inline constexpr bool kIsList<std::vector<T>> = true;

/// The fields of a config.json by dotted path ("rope_parameters.main.rope_theta"), with a record of
/// what is missing or wrong. null counts as absent, as transformers writes it for None.
class ConfigFields {
 public:
  using json = nlohmann::json;

  /// Sizes and ids beyond this are no model's; the limit keeps products of two from overflowing.
  static constexpr std::size_t kMaxInteger = std::numeric_limits<std::int32_t>::max();

  explicit ConfigFields(const json& root) : root_(root) {}

  /// The value at a path, or nullptr where it is absent.
  const json* at(std::string_view path) {
    const json* value = &root_;
    for (std::size_t begin = 0; begin <= path.size();) {
      const std::size_t end = std::min(path.find('.', begin), path.size());
      const auto member = value->find(path.substr(begin, end - begin));
      if (member == value->end() || member->is_null()) return nullptr;
      value = &*member;
      if (end < path.size() && !value->is_object()) {
        reject(path.substr(0, end), "an object", describe(*value));
        return nullptr;
      }
      begin = end + 1;
    }
    return value;
  }

  /// The value at a path as T (a size, a number, a text, a list of one of them); another type is
  /// recorded, and nothing returned.
  template <class T>
  std::optional<T> get(std::string_view path) {
    const json* value = at(path);
    if (value == nullptr) return std::nullopt;
    auto result = convert<T>(*value);
    if (!result) reject(path, kind<T>(), describe(*value));
    return result;
  }

  /// Records a value that is there and is not the only supported one.
  void expect(std::string_view path, const json& supported) {
    const json* value = at(path);
    if (value != nullptr && *value != supported)
      reject(path, describe(supported), describe(*value));
  }

  /// One statement of a quantity that a file may state in several places.
  template <class T>
  struct Statement {
    std::string path;
    std::optional<T> value;
  };
  template <class T>
  Statement<T> statement(std::string path) {
    auto value = get<T>(path);
    return {std::move(path), std::move(value)};
  }
  /// The value that is stated, if any; statements that contradict the first one are recorded.
  template <class T>
  std::optional<T> agreed(const std::vector<Statement<T>>& statements) {
    std::optional<T> first;
    std::string where;
    for (const auto& each : statements) {
      if (!each.value) continue;
      if (!first) {
        first = each.value;
        where = each.path;
      } else if (*each.value != *first) {
        reject(each.path, text(*first) + " as in " + where, text(*each.value));
      }
    }
    return first;
  }

  /// Sets value to what is stated; if nothing is, records the last statement's path as missing.
  template <class T>
  void require(T& value, const std::vector<Statement<T>>& statements) {
    if (auto found = agreed(statements)) {
      value = std::move(*found);
    } else if (std::ranges::none_of(statements,
                                    [&](const auto& each) { return is_rejected(each.path); })) {
      missing_ += (missing_.empty() ? "" : ", ") + statements.back().path;
    }
  }
  template <class T>
  void require(T& value, std::string path) {
    require<T>(value, {statement<T>(std::move(path))});
  }

  /// Records a value that is there and wrong, once for each path.
  void reject(std::string_view path, std::string_view expected, std::string_view found) {
    if (!rejected_.emplace(path).second) return;
    problems_.add(std::string(path) + ": expected " + printable(expected, 240) + ", found " +
                  printable(found));
  }

  /// Throws one ds4::Error with all that was recorded, if anything was.
  void finish(std::string_view where) const {
    Problems all;
    if (!missing_.empty()) all.add("missing " + missing_);
    all.append(problems_);
    all.throw_if_any(where);
  }

 private:
  template <class T>
  static std::optional<T> convert(const json& value) {
    if constexpr (kIsList<T>) {
      if (!value.is_array()) return std::nullopt;
      T list;
      for (const json& entry : value) {
        auto element = convert<typename T::value_type>(entry);
        if (!element) return std::nullopt;
        list.push_back(std::move(*element));
      }
      return list;
    } else if constexpr (std::is_same_v<T, std::string>) {
      return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
    } else if constexpr (std::is_same_v<T, double>) {
      if (!value.is_number() || value.get<double>() < 0) return std::nullopt;
      return value.get<double>();
    } else {
      static_assert(std::is_same_v<T, std::size_t>);
      const auto size = as_size(value);
      return size && *size <= kMaxInteger ? size : std::nullopt;
    }
  }
  template <class T>
  static std::string kind() {
    if constexpr (kIsList<T>) {
      return "an array, each entry " + kind<typename T::value_type>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      return "a string";
    } else if constexpr (std::is_same_v<T, double>) {
      return "a number of at least 0";
    } else {
      return "an integer from 0 to " + std::to_string(kMaxInteger);
    }
  }
  /// Whether a path was rejected, or an object on the way to it.
  bool is_rejected(std::string_view path) const {
    for (std::size_t end = 0; end != path.npos;) {
      end = path.find('.', end + 1);
      if (rejected_.contains(path.substr(0, end))) return true;
    }
    return false;
  }
  static std::string text(const std::string& value) { return in_quotes(value); }
  template <class T>
  static std::string text(const T& value) {
    return field_text(value);
  }

  const json& root_;
  std::string missing_;
  std::set<std::string, std::less<>> rejected_;
  Problems problems_;
};

/// Fields that may be absent or stated in another way: the functions below set them.
inline bool is_stated_elsewhere(std::string_view field) {
  constexpr std::array<std::string_view, 6> kFields{
      "qk_rope_head_dim", "num_hash_layers",     "compress_ratios",
      "rope_theta",       "compress_rope_theta", "num_nextn_predict_layers"};
  return field.starts_with("compress_rates.") || field.starts_with("rope_scaling.") ||
         field.starts_with("dspark_") || std::ranges::find(kFields, field) != kFields.end();
}

/// The rates that a list of ratios implies where compress_rates is absent: 4 and 128 if it uses no
/// others, two others by size, and of a single other the kind whose usual rate is nearer.
inline std::optional<CompressRates> rates_of(const std::vector<std::size_t>& ratios) {
  std::set<std::size_t> used(ratios.begin(), ratios.end());
  used.erase(0);
  if (used.size() > 2) return std::nullopt;
  CompressRates rates;
  if (std::ranges::all_of(used, [](std::size_t ratio) { return ratio == 4 || ratio == 128; })) {
    return rates;
  }
  const std::size_t smallest = *used.begin();
  const std::size_t largest = *used.rbegin();
  if (used.size() == 2 || smallest <= 16) rates.compressed_sparse_attention = smallest;
  if (used.size() == 2 || largest > 16) rates.heavily_compressed_attention = largest;
  return rates;
}

/// Reads a list with one entry per layer; one of another length is recorded, and nothing returned.
template <class T>
std::optional<std::vector<T>> read_per_layer(ConfigFields& file, std::string_view path,
                                             std::size_t layers) {
  auto list = file.get<std::vector<T>>(path);
  if (list && layers > 0 && list->size() != layers) {
    file.reject(path, std::to_string(layers) + " entries", std::to_string(list->size()));
    list.reset();
  }
  return list;
}

/// Reads compress_ratios: the main layers', and behind them, where the list goes on, one 0 for each
/// layer of the drafter, whose number it returns. num_nextn_predict_layers is that number in the
/// old releases, and none where DSpark is (it says 1 in Flash-0731, with 3 stages).
inline std::optional<std::vector<std::size_t>> read_ratios(ConfigFields& file,
                                                           ConfigValues& values) {
  auto ratios = file.get<std::vector<std::size_t>>("compress_ratios");
  const std::size_t layers = values.num_hidden_layers;
  const std::size_t stated = values.num_nextn_predict_layers;
  if (values.has_dspark) values.num_nextn_predict_layers = 0;
  if (!ratios || layers == 0) return ratios;
  const std::size_t most = values.has_dspark ? kMaxStages : 1;
  if (ratios->size() < layers || ratios->size() > layers + most) {
    file.reject("compress_ratios",
                std::to_string(layers) + " to " + std::to_string(layers + most) + " entries",
                std::to_string(ratios->size()));
    return std::nullopt;
  }
  for (std::size_t i = layers; i < ratios->size(); ++i) {
    if ((*ratios)[i] != 0) {
      file.reject("compress_ratios[" + std::to_string(i) + "]", "0 for a layer of the drafter",
                  std::to_string((*ratios)[i]));
    }
  }
  if (values.has_dspark) {
    values.dspark_stages = ratios->size() - layers;
    if (values.dspark_stages == 0 && stated > 1) values.dspark_stages = stated;
    if (stated > 1 && stated != values.dspark_stages) {
      file.reject("num_nextn_predict_layers",
                  "0, 1 or the drafter's entries of compress_ratios, " +
                      std::to_string(values.dspark_stages),
                  std::to_string(stated));
    }
  }
  ratios->resize(layers);
  return ratios;
}

/// Attention of each layer: compress_ratios, or layer_types with compress_rates.
inline void read_attention_kinds(ConfigFields& file, ConfigValues& values) {
  auto ratios = read_ratios(file, values);
  const auto types = read_per_layer<std::string>(file, "layer_types", values.num_hidden_layers);

  CompressRates& rates = values.compress_rates;
  if (types || file.at("compress_rates") != nullptr) {
    file.require(rates.compressed_sparse_attention, "compress_rates.compressed_sparse_attention");
    file.require(rates.heavily_compressed_attention, "compress_rates.heavily_compressed_attention");
  } else if (ratios) {
    if (const auto implied = rates_of(*ratios)) {
      rates = *implied;
    } else {
      file.reject("compress_ratios", "at most two different ratios above 0, or compress_rates",
                  field_text(*ratios));
    }
  }

  std::optional<std::vector<std::size_t>> ratios_of_types;
  if (types) ratios_of_types.emplace();
  for (std::size_t i = 0; types && i < types->size(); ++i) {
    const std::string& type = (*types)[i];
    if (type == "compressed_sparse_attention") {
      ratios_of_types->push_back(rates.compressed_sparse_attention);
    } else if (type == "heavily_compressed_attention") {
      ratios_of_types->push_back(rates.heavily_compressed_attention);
    } else {
      ratios_of_types->push_back(0);
      if (type == "sliding_attention") continue;
      file.reject("layer_types[" + std::to_string(i) + "]",
                  "sliding_attention, compressed_sparse_attention or heavily_compressed_attention",
                  in_quotes(type));
    }
  }
  file.require<std::vector<std::size_t>>(
      values.compress_ratios, {{"layer_types", ratios_of_types}, {"compress_ratios", ratios}});
}

/// DSpark: all of its fields where there is one, and no others. V4.1 has more of them, which are
/// another drafter's.
inline void read_dspark(ConfigFields& file, ConfigValues& values, const nlohmann::json& root) {
  constexpr std::array<std::string_view, 4> kFields{"dspark_block_size", "dspark_noise_token_id",
                                                    "dspark_target_layer_ids",
                                                    "dspark_markov_rank"};
  for (const auto& [key, value] : root.items()) {
    if (!key.starts_with("dspark_")) continue;
    values.has_dspark = true;
    if (std::ranges::find(kFields, key) == kFields.end()) {
      file.reject(printable(key),
                  "none but dspark_block_size, dspark_noise_token_id, "
                  "dspark_target_layer_ids and dspark_markov_rank",
                  "another field of DSpark");
    }
  }
  if (!values.has_dspark) return;
  file.require(values.dspark_block_size, std::string(kFields[0]));
  file.require(values.dspark_noise_token_id, std::string(kFields[1]));
  file.require(values.dspark_target_layer_ids, std::string(kFields[2]));
  file.require(values.dspark_markov_rank, std::string(kFields[3]));
}

/// Routers: num_hash_layers, or mlp_layer_types.
inline void read_router_kinds(ConfigFields& file, ConfigValues& values) {
  const auto types = read_per_layer<std::string>(file, "mlp_layer_types", values.num_hidden_layers);
  std::optional<std::size_t> hash_layers;
  if (types) hash_layers = 0;
  for (std::size_t i = 0; types && i < types->size(); ++i) {
    const std::string& type = (*types)[i];
    const std::string path = "mlp_layer_types[" + std::to_string(i) + "]";
    if (type == "hash_moe") {
      if (*hash_layers != i) file.reject(path, "moe, as hash_moe layers come first", "hash_moe");
      ++*hash_layers;
    } else if (type != "moe") {
      file.reject(path, "hash_moe or moe", in_quotes(type));
      break;
    }
  }
  file.require<std::size_t>(
      values.num_hash_layers,
      {{"mlp_layer_types", hash_layers}, file.statement<std::size_t>("num_hash_layers")});
}

/// The scaling that an object of rotary parameters states.
inline RopeScaling read_rope_scaling(ConfigFields& file, const std::string& path) {
  RopeScaling scaling;
  std::string type;
  file.require<std::string>(type, {file.statement<std::string>(path + ".type"),
                                   file.statement<std::string>(path + ".rope_type")});
  if (type == "yarn") {
    file.require(scaling.factor, path + ".factor");
    file.require(scaling.original_max_position_embeddings,
                 path + ".original_max_position_embeddings");
    // As transformers' rotary tables take them: 32 and 1 where they are not stated.
    scaling.beta_fast = file.get<double>(path + ".beta_fast").value_or(scaling.beta_fast);
    scaling.beta_slow = file.get<double>(path + ".beta_slow").value_or(scaling.beta_slow);
    file.expect(path + ".attention_factor", 1);
    file.expect(path + ".truncate", true);
  } else if (!type.empty() && type != "default") {
    file.reject(path + ".rope_type", "default or yarn", in_quotes(type));
  }
  return scaling;
}

/// The scaling in rope_parameters, if it is there: transformers' configuration class takes what is
/// not nested as main and compress for the scaling of compress; a theta or factor in it counts for
/// nothing, as those beside it win.
inline std::optional<RopeScaling> read_rope_parameters(ConfigFields& file, bool nested) {
  if (file.at("rope_parameters") == nullptr) return std::nullopt;
  if (!nested) {
    const bool typed = file.at("rope_parameters.rope_type") != nullptr ||
                       file.at("rope_parameters.type") != nullptr;
    return typed ? read_rope_scaling(file, "rope_parameters") : RopeScaling{};
  }
  if (read_rope_scaling(file, "rope_parameters.main") != RopeScaling{}) {
    file.reject("rope_parameters.main.rope_type", "default, as only compress is scaled", "yarn");
  }
  return read_rope_scaling(file, "rope_parameters.compress");
}

/// Rotary width, thetas and scaling: qk_rope_head_dim, rope_theta, compress_rope_theta and
/// rope_scaling, or partial_rotary_factor and rope_parameters.
inline void read_rotary(ConfigFields& file, ConfigValues& values) {
  const auto is_object = [&](std::string_view path) {
    const auto* const value = file.at(path);
    return value != nullptr && value->is_object();
  };
  const bool nested = is_object("rope_parameters.main") && is_object("rope_parameters.compress");
  const bool flat = is_object("rope_parameters") && !nested;
  const auto factor = file.agreed<double>(
      {file.statement<double>("partial_rotary_factor"),
       file.statement<double>("rope_parameters.main.partial_rotary_factor"),
       file.statement<double>("rope_parameters.compress.partial_rotary_factor")});
  std::optional<std::size_t> width;
  if (factor && *factor > 1.0) {
    file.reject("partial_rotary_factor", "a number from 0 to 1", field_text(*factor));
  } else if (factor && values.head_dim > 0) {
    // Rounded down, as transformers does.
    width = static_cast<std::size_t>(static_cast<double>(values.head_dim) * *factor);
  }
  file.require<std::size_t>(values.qk_rope_head_dim,
                            {{"head_dim * partial_rotary_factor", width},
                             file.statement<std::size_t>("qk_rope_head_dim")});
  // The thetas that the configuration class of transformers has where a flat form leaves them out.
  const auto theta = [&](double& value, const char* in_parameters, const char* field,
                         double flat_default) {
    if (flat) {
      value = file.get<double>(field).value_or(flat_default);
    } else {
      file.require<double>(value,
                           {file.statement<double>(in_parameters), file.statement<double>(field)});
    }
  };
  theta(values.rope_theta, "rope_parameters.main.rope_theta", "rope_theta", 10000.0);
  theta(values.compress_rope_theta, "rope_parameters.compress.rope_theta", "compress_rope_theta",
        160000.0);

  const auto parameters = read_rope_parameters(file, nested);
  values.rope_scaling = parameters.value_or(RopeScaling{});
  if (file.at("rope_scaling") == nullptr) return;
  const RopeScaling scaling = read_rope_scaling(file, "rope_scaling");
  if (parameters && scaling != *parameters) {
    file.reject("rope_scaling",
                flat ? "the same as rope_parameters" : "the same as rope_parameters.compress",
                "another scaling");
  }
  values.rope_scaling = scaling;
}

/// The part that sees images: only what tensors it has.
inline void read_vision(ConfigFields& file, ConfigValues& values) {
  const auto layers = file.get<std::size_t>("vision_n_layers");
  if (!layers) return;
  values.vision.emplace();
  const auto size = [&](std::size_t& value, const std::string& path, std::size_t most) {
    value = file.get<std::size_t>(path).value_or(0);
    if (value > most) file.reject(path, "at most " + field_text(most), field_text(value));
  };
  constexpr std::size_t kMost = 1 << 16;
  size(values.vision->n_layers, "vision_n_layers", 1024);
  size(values.vision->dim, "vision_dim", kMost);
  size(values.vision->inter_dim, "vision_inter_dim", kMost);
  size(values.vision->patch_size, "vision_patch_size", 1024);
  size(values.vision->downsample_ratio, "vision_downsample_ratio", 1024);
}

/// Relations between fields that are there, the same as checked_config() has for a type; and no
/// more layers and experts than lists of tensors have room for.
inline void check_relations(ConfigFields& file, const ConfigValues& values) {
  constexpr std::size_t kMaxExperts = 1 << 17;  // in all layers: five times what Pro has
  const auto expect = [&](bool holds, std::string_view field, const std::string& expected,
                          const auto& found) {
    if (!holds) file.reject(field, expected, field_text(found));
  };
  constexpr std::array<std::string_view, 5> kMayBeZero{
      "num_hash_layers", "num_nextn_predict_layers", "max_position_embeddings", "dspark_stages",
      "dspark_noise_token_id"};
  visit_fields(
      [&](std::string_view field, const auto& value) {
        if (!values.has_dspark && field.starts_with("dspark_")) return;
        if constexpr (std::is_same_v<decltype(value), const std::size_t&>) {
          expect(value > 0 || std::ranges::find(kMayBeZero, field) != kMayBeZero.end(), field,
                 "at least 1", value);
        }
      },
      values);
  if (values.o_groups > 0) {
    expect(values.num_attention_heads % values.o_groups == 0, "num_attention_heads",
           "a multiple of o_groups, " + field_text(values.o_groups), values.num_attention_heads);
  }
  expect(values.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", "an even number",
         values.qk_rope_head_dim);
  const std::size_t narrower = std::min(values.head_dim, values.index_head_dim);
  expect(values.qk_rope_head_dim <= narrower, "qk_rope_head_dim",
         "at most head_dim and index_head_dim, " + field_text(narrower), values.qk_rope_head_dim);
  expect(values.num_experts_per_tok <= values.n_routed_experts, "num_experts_per_tok",
         "at most n_routed_experts, " + field_text(values.n_routed_experts),
         values.num_experts_per_tok);
  const std::size_t layers = values.num_hidden_layers + values.dspark_stages;
  expect(values.n_routed_experts <= kMaxExperts / std::max<std::size_t>(layers, 1),
         "n_routed_experts", "at most " + field_text(kMaxExperts) + " in all layers",
         values.n_routed_experts);
  expect(values.num_hash_layers <= values.num_hidden_layers, "num_hash_layers",
         "at most num_hidden_layers, " + field_text(values.num_hidden_layers),
         values.num_hash_layers);
  const CompressRates& rates = values.compress_rates;
  expect(rates.compressed_sparse_attention != rates.heavily_compressed_attention,
         "compress_rates.heavily_compressed_attention",
         "another rate than compressed_sparse_attention", rates.heavily_compressed_attention);
  for (const std::size_t ratio : values.compress_ratios) {
    expect(ratio == 0 || ratio == rates.compressed_sparse_attention ||
               ratio == rates.heavily_compressed_attention,
           "compress_ratios", "0 or one of compress_rates", ratio);
  }
  if (values.has_dspark) {
    expect(values.dspark_noise_token_id < values.vocab_size, "dspark_noise_token_id",
           "below vocab_size, " + field_text(values.vocab_size), values.dspark_noise_token_id);
    const std::vector<std::size_t>& targets = values.dspark_target_layer_ids;
    expect(!targets.empty() && targets.back() < values.num_hidden_layers &&
               std::ranges::adjacent_find(targets, std::ranges::greater_equal()) == targets.end(),
           "dspark_target_layer_ids",
           "ids of layers below num_hidden_layers, " + field_text(values.num_hidden_layers) +
               ", at least one, strictly increasing",
           targets);
  }
  expect(values.rope_theta > 1.0, "rope_theta", "more than 1", values.rope_theta);
  expect(values.compress_rope_theta > 1.0, "compress_rope_theta", "more than 1",
         values.compress_rope_theta);
  expect(values.swiglu_limit > 0.0, "swiglu_limit", "more than 0", values.swiglu_limit);
  expect(values.rope_scaling.factor >= 1.0, "rope_scaling.factor", "at least 1",
         values.rope_scaling.factor);
}

DS4_FUNCTION ConfigValues config_from_json(std::string_view where, const nlohmann::json& root) {
  if (!root.is_object())
    throw Error(ErrorKind::file, where, "expected an object, found " + describe(root));
  if (const auto inference = release_form(root)) return config_from_json(where, *inference);
  const auto type = root.find("model_type");
  if (type != root.end() && type->is_string() && *type == "deepseek_v41") {
    throw Error(
        ErrorKind::file, where,
        "model_type: expected \"deepseek_v4\", found \"deepseek_v41\", another architecture");
  }
  ConfigFields file(root);
  ConfigValues values;

  std::string model_type;
  std::size_t one = 0;
  file.require(model_type, "model_type");
  file.require(one, "num_key_value_heads");
  file.require(one, "n_shared_experts");
  file.expect("model_type", "deepseek_v4");
  file.expect("num_key_value_heads", 1);
  file.expect("n_shared_experts", 1);
  file.expect("scoring_func", "sqrtsoftplus");
  file.expect("hidden_act", "silu");
  file.expect("tie_word_embeddings", false);
  file.expect("attention_bias", false);
  file.expect("mlp_bias", false);
  // norm_topk_prob is not read: the reference normalises the experts' weights whatever it says.

  visit_fields(
      [&](std::string_view field, auto& value) {
        if (!is_stated_elsewhere(field)) file.require(value, std::string(field));
      },
      values);
  values.num_nextn_predict_layers = file.get<std::size_t>("num_nextn_predict_layers").value_or(0);
  read_dspark(file, values, root);
  if (values.num_nextn_predict_layers > 1 && !values.has_dspark) {
    file.reject("num_nextn_predict_layers", "0 or 1",
                std::to_string(values.num_nextn_predict_layers));
    values.num_nextn_predict_layers = 1;  // for what is checked behind it
  }
  read_attention_kinds(file, values);
  read_router_kinds(file, values);
  read_rotary(file, values);

  read_vision(file, values);

  values.expert_dtype = file.get<std::string>("expert_dtype").value_or("");
  values.bos_token_id = file.get<std::size_t>("bos_token_id");
  if (const auto* eos = file.at("eos_token_id"); eos != nullptr && eos->is_array()) {
    values.eos_token_ids =
        file.get<std::vector<std::size_t>>("eos_token_id").value_or(values.eos_token_ids);
  } else if (const auto id = file.get<std::size_t>("eos_token_id")) {
    values.eos_token_ids = {*id};
  }
  file.finish(where);
  check_relations(file, values);
  file.finish(where);
  return values;
}

}  // namespace detail

DS4_FUNCTION ConfigValues read_config(const std::filesystem::path& config_json_file) {
  constexpr std::size_t kMaxBytes = 1 << 20;
  const nlohmann::json root = detail::read_json(config_json_file, kMaxBytes);
  return detail::config_from_json(detail::printable_path(config_json_file), root);
}

DS4_FUNCTION std::string config_json(const ConfigValues& values) {
  nlohmann::ordered_json root = {{"architectures", {"DeepseekV4ForCausalLM"}},
                                 {"model_type", "deepseek_v4"},
                                 {"num_key_value_heads", 1},
                                 {"n_shared_experts", 1}};
  visit_fields(
      [&](std::string_view field, const auto& value) {
        if (!values.has_dspark && field.starts_with("dspark_")) return;
        const std::size_t dot = field.find('.');
        if (dot == field.npos) {
          root[std::string(field)] = value;
        } else {
          root[std::string(field.substr(0, dot))][std::string(field.substr(dot + 1))] = value;
        }
      },
      values);
  root.erase("dspark_stages");  // which compress_ratios say
  for (std::size_t i = 0; i < values.dspark_stages; ++i) root["compress_ratios"].push_back(0);
  if (values.rope_scaling == RopeScaling{}) {
    root.erase("rope_scaling");
  } else {
    root["rope_scaling"]["type"] = "yarn";
  }
  if (!values.expert_dtype.empty()) root["expert_dtype"] = values.expert_dtype;
  if (values.vision) {
    root["vision_n_layers"] = values.vision->n_layers;
    root["vision_dim"] = values.vision->dim;
    root["vision_inter_dim"] = values.vision->inter_dim;
    root["vision_patch_size"] = values.vision->patch_size;
    root["vision_downsample_ratio"] = values.vision->downsample_ratio;
  }
  if (values.bos_token_id) root["bos_token_id"] = *values.bos_token_id;
  if (!values.eos_token_ids.empty()) root["eos_token_id"] = values.eos_token_ids;
  return root.dump(1) + "\n";
}

}  // namespace ds4::inline v0_1
