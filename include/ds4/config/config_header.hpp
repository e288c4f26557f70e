// The C++ header of a configuration type, written from the values of a config.json.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// A value as C++; a double is never an integer literal, which could be too large for its type.
inline std::string literal(std::size_t value) { return field_text(value); }
inline std::string literal(double value) {
  const std::string text = field_text(value);
  return text.find_first_of(".e") == text.npos ? text + ".0" : text;
}

/// The declaration of a member, without what is common to all.
inline std::string declaration(const std::string& field, std::size_t value) {
  return "std::size_t " + field + " = " + literal(value);
}
inline std::string declaration(const std::string& field, double value) {
  return "double " + field + " = " + literal(value);
}
inline std::string declaration(const std::string& field, const std::vector<std::size_t>& values) {
  std::string list;
  for (const std::size_t value : values) list += (list.empty() ? "" : ", ") + literal(value);
  return "std::array<std::size_t, " + literal(values.size()) + "> " + field + "{" + list + "}";
}
inline std::string declaration(const std::string& field, const CompressRates& rates) {
  return "CompressRates " + field + "{" + literal(rates.compressed_sparse_attention) + ", " +
         literal(rates.heavily_compressed_attention) + "}";
}
inline std::string declaration(const std::string& field, const RopeScaling& scaling) {
  return "RopeScaling " + field + "{" + literal(scaling.factor) + ", " +
         literal(scaling.original_max_position_embeddings) + ", " + literal(scaling.beta_fast) +
         ", " + literal(scaling.beta_slow) + "}";
}

}  // namespace detail

/// A configuration that allows for the drafters of both, which differ in nothing else that a type
/// states. Throws ds4::Error at `where`, of `other`, for the first field that does.
inline ConfigValues with_drafters_of(ConfigValues values, const ConfigValues& other,
                                     std::string_view where) {
  if (const auto differences = compare(other, values); !differences.empty()) {
    const FieldDifference& first = differences.front();
    throw Error(where, first.field + ": found " + first.found + ", expected " + first.expected +
                           " as in the other configuration of one model");
  }
  values.num_nextn_predict_layers =
      std::max(values.num_nextn_predict_layers, other.num_nextn_predict_layers);
  if (!values.has_dspark) {
    values.has_dspark = other.has_dspark;
    values.dspark_stages = other.dspark_stages;
    values.dspark_block_size = other.dspark_block_size;
    values.dspark_noise_token_id = other.dspark_noise_token_id;
    values.dspark_target_layer_ids = other.dspark_target_layer_ids;
    values.dspark_markov_rank = other.dspark_markov_rank;
  }
  return values;
}

/// The text of a header with struct ds4::models::NAME, a configuration type of these values,
/// which are to be consistent, as those of read_config() are. `name`, NAME, is a C++ identifier;
/// the head of the text names `source`.
inline std::string config_header(const ConfigValues& values, std::string_view name,
                                 std::string_view source) {
  const std::string type(name);
  std::string members = "  static constexpr std::string_view name = \"" + type + "\";\n";
  detail::visit_members(
      [&](std::string_view field, const auto& value) {
        members += "  static constexpr " + detail::declaration(std::string(field), value) + ";\n";
      },
      values);
  return "// The configuration of " + detail::printable(source) +
         R"(; written by ds4_add_model(), do not edit.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <ds4/config/config.hpp>

namespace ds4::models {

struct )" +
         type + " {\n" + members + "};\nstatic_assert(checked_config<" + type +
         ">());\n\n}  // namespace ds4::models\n";
}

}  // namespace ds4::inline v0_1
