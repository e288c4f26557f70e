// How the tensor names of transformers' files, and those of tools, map to the release's.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>

namespace ds4::inline v0_1 {

/// The release's name of a tensor, given either layout's: "model.layers.0.attn.norm.weight" is
/// "layers.0.attn.kv_norm.weight". Scales that stand beside "x.weight" as "x.weight_scale_inv", as
/// tools that quantise write them, are "x.scale". Names of the release come back unchanged.
/// Source: model.md 7.1.
inline std::string canonical_name(std::string_view name) {
  if (name.starts_with("model.")) name.remove_prefix(6);
  std::string result(name);
  using Rename = std::pair<std::string_view, std::string_view>;
  for (const auto& [from, to] :
       {Rename{"embed_tokens.", "embed."}, Rename{"hc_head.hc_", "hc_head_"},
        Rename{".attn.norm.", ".attn.kv_norm."}}) {
    if (const std::size_t at = result.find(from); at != std::string::npos) {
      result.replace(at, from.size(), to);
    }
  }
  constexpr std::string_view kScale = ".weight_scale_inv";
  if (result.ends_with(kScale)) {
    result.replace(result.size() - kScale.size(), kScale.size(), ".scale");
  }
  return result;
}

}  // namespace ds4::inline v0_1
