// A configuration at run time: the members of a configuration type as values, to compare and print.
#pragma once

#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>

namespace ds4::inline v0_1 {

/// The part of a checkpoint that sees images (config.json: vision_*). ds4 reads text alone: of this
/// part it knows the tensors, to set them aside. A size that a file does not state is 0.
struct VisionSizes {
  ///@{
  /// Fields of config.json, by their names behind vision_.
  std::size_t n_layers = 0;
  std::size_t dim = 0;
  std::size_t inter_dim = 0;
  std::size_t patch_size = 0;
  std::size_t downsample_ratio = 0;
  ///@}
};

/// What a configuration type states (see ModelConfig), and what only a config.json does.
struct ConfigValues {
  std::string name;  ///< of the configuration type; a file has none
  ///@{
  /// See ModelConfig; compress_ratios are those of the main layers.
#define DS4_MEMBER(type, field) type field{};
  DS4_CONFIG_FIELDS(DS4_MEMBER)
#undef DS4_MEMBER
  ///@}

  ///@{
  /// Token ids, where the file states them.
  std::optional<std::size_t> bos_token_id;
  std::vector<std::size_t> eos_token_ids;
  ///@}
  /// The file announces DSpark. dspark_stages may still be 0 then: where compress_ratios says
  /// nothing of its stages, the tensors do.
  bool has_dspark = false;
  std::string expert_dtype;           ///< how the file says that experts are stored; may be empty
  std::optional<VisionSizes> vision;  ///< where the file states vision_n_layers
};

namespace detail {

/// Stages of DSpark beyond this are no model's.
inline constexpr std::size_t kMaxStages = 16;

/// Calls f(name, a.name, b.name, ...) for every member of DS4_CONFIG_FIELDS.
template <class F, class... Values>
constexpr void visit_members(F&& f, Values&&... values) {
#define DS4_VISIT(type, field) f(#field, values.field...);
  DS4_CONFIG_FIELDS(DS4_VISIT)
#undef DS4_VISIT
}

template <class To, class... T>
inline constexpr bool kAll = (std::is_convertible_v<T, To> && ...);

}  // namespace detail

/// Calls f(name, a.field, b.field, ...) for every field that `values` must agree in, those of
/// compress_rates and rope_scaling one by one. Each of them is a ConfigValues or an instance of a
/// configuration type.
template <class F, class... Values>
constexpr void visit_fields(F&& f, Values&&... values) {
  detail::visit_members(
      [&]<class... T>(std::string_view name, T&&... field) {
        if constexpr (detail::kAll<CompressRates, T...>) {
          f("compress_rates.compressed_sparse_attention", field.compressed_sparse_attention...);
          f("compress_rates.heavily_compressed_attention", field.heavily_compressed_attention...);
        } else if constexpr (detail::kAll<RopeScaling, T...>) {
          f("rope_scaling.factor", field.factor...);
          f("rope_scaling.original_max_position_embeddings",
            field.original_max_position_embeddings...);
          f("rope_scaling.beta_fast", field.beta_fast...);
          f("rope_scaling.beta_slow", field.beta_slow...);
        } else {
          f(name, field...);
        }
      },
      values...);
}

namespace detail {

inline std::string field_text(std::size_t value) { return std::to_string(value); }

/// The shortest text that reads back as the same double.
inline std::string field_text(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  return {buffer, end};
}

inline std::string field_text(const std::vector<std::size_t>& values) {
  std::string text;
  for (const std::size_t value : values) text += (text.empty() ? "" : ", ") + field_text(value);
  return "[" + text + "]";
}

}  // namespace detail

/// The values of configuration C; the members that only a file has stay empty.
template <ModelConfig C>
ConfigValues config_values() {
  ConfigValues values;
  values.name = std::string_view(C::name);
  visit_fields(
      [](std::string_view, auto& to, const auto& from) {
        if constexpr (std::is_same_v<decltype(to), std::vector<std::size_t>&>) {
          for (std::size_t i = 0; i < from.size(); ++i)
            to.push_back(static_cast<std::size_t>(from[i]));
        } else {
          to = static_cast<std::remove_reference_t<decltype(to)>>(from);
        }
      },
      values, C{});
  values.has_dspark = C::dspark_stages > 0;
  return values;
}

/// One line "field: value" for every field.
inline std::string to_string(const ConfigValues& values) {
  std::string text;
  visit_fields(
      [&](std::string_view field, const auto& value) {
        text.append(field).append(": ").append(detail::field_text(value)).append("\n");
      },
      values);
  return text;
}

/// A field of a file that a compiled configuration does not cover; for a list, one entry of it.
struct FieldDifference {
  std::string field;     ///< its name, with an index for an entry of a list
  std::string found;     ///< in the file
  std::string expected;  ///< as compiled; "at most N" of a bound
};

namespace detail {

/// The fields of a configuration type that are the most that a checkpoint may say.
inline bool is_bound(std::string_view field) {
  return field == "num_nextn_predict_layers" || field == "dspark_stages" ||
         field == "max_position_embeddings";
}

}  // namespace detail

/// The fields in which a file says what the compiled configuration does not cover, all of them:
/// where they differ, or the file says more than a bound (see ModelConfig). Name and token ids do
/// not count, nor does a drafter that one of the two does not have. Lists of equal length are
/// compared entry by entry ("compress_ratios[3]").
inline std::vector<FieldDifference> compare(const ConfigValues& file,
                                            const ConfigValues& compiled) {
  std::vector<FieldDifference> differences;
  const bool both_have_dspark = file.has_dspark && compiled.has_dspark;
  const auto check = [&](std::string field, const auto& found, const auto& expected) {
    if (found == expected) return;
    if (!both_have_dspark && field.starts_with("dspark_")) return;
    if (compiled.num_nextn_predict_layers == 0 && field == "num_nextn_predict_layers") return;
    std::string text = detail::field_text(expected);
    if constexpr (std::is_same_v<decltype(found), const std::size_t&>) {
      if (detail::is_bound(field)) {
        if (found < expected) return;
        text = "at most " + text;
      }
    }
    differences.push_back({std::move(field), detail::field_text(found), std::move(text)});
  };
  visit_fields(
      [&](std::string_view field, const auto& found, const auto& expected) {
        if constexpr (requires { found.size(); }) {
          if (found.size() == expected.size()) {
            for (std::size_t i = 0; i < found.size(); ++i) {
              check(std::string(field) + "[" + std::to_string(i) + "]", found[i], expected[i]);
            }
            return;
          }
        }
        check(std::string(field), found, expected);
      },
      file, compiled);
  return differences;
}

}  // namespace ds4::inline v0_1
