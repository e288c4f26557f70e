// Layers in pictures: their kinds and colours.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/layers/observer.hpp>

#include "cli/svg.hpp"

namespace ds4::cli {

/// A main layer's kinds; its ratio is 0 or one of the configuration's compress_rates.
inline LayerInfo layer_info(const ConfigValues& config, std::size_t layer) {
  const std::size_t ratio = config.compress_ratios[layer];
  return {layer, ratio,
          ratio == 0                                                   ? AttentionKind::sliding
          : ratio == config.compress_rates.compressed_sparse_attention ? AttentionKind::csa
                                                                       : AttentionKind::hca,
          layer < config.num_hash_layers ? RouterKind::hash : RouterKind::learned};
}

struct LayerLook {
  std::string_view name;
  std::string_view fill;
  std::string_view edge;
};

constexpr LayerLook look_of(AttentionKind kind) {
  switch (kind) {
    case AttentionKind::sliding:
      return {"sliding", "#e6eef8", "#4a73b0"};
    case AttentionKind::csa:
      return {"CSA", "#e3f3e5", "#3f8f50"};
    case AttentionKind::hca:
      return {"HCA", "#fdecd8", "#c77c22"};
  }
  return {};
}

/// A small box in the colours of a layer; one that is hash-routed has a dark foot.
inline void draw_chip(Svg& svg, double x, double y, double width, double height,
                      AttentionKind attention, RouterKind router) {
  const LayerLook look = look_of(attention);
  svg.box(x, y, width, height, look.fill, {.colour = look.edge, .radius = 2});
  if (router == RouterKind::hash) svg.box(x, y + height - 3, width, 3, kInk);
}

/// The legend of those boxes, from x on along the baseline y; the routers' part comes last.
inline void draw_legend(Svg& svg, double x, double y) {
  const auto entry = [&](AttentionKind attention, RouterKind router, std::string_view words,
                         double step) {
    draw_chip(svg, x, y - 11, 16, 14, attention, router);
    svg.text(x + 22, y, words, {.size = 11});
    x += step;
  };
  entry(AttentionKind::sliding, RouterKind::learned, "sliding window", 125);
  entry(AttentionKind::csa, RouterKind::learned, "CSA, compressed sparse", 180);
  entry(AttentionKind::hca, RouterKind::learned, "HCA, heavily compressed", 190);
  entry(AttentionKind::sliding, RouterKind::hash, "dark foot: hash router, else learned", 0);
}

}  // namespace ds4::cli
