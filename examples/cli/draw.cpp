// ds4 draw: a configuration's typed sequence of layers as a picture.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/plan/plan.hpp>

#include "cli/io.hpp"
#include "cli/layer_look.hpp"
#include "cli/named_config.hpp"
#include "cli/options.hpp"
#include "cli/svg.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

constexpr double kWidth = 960;
constexpr double kLeft = 118;   // of the boxes
constexpr double kRight = 850;  // room for a bracket behind it
constexpr double kBoxHeight = 94;
constexpr double kGap = 16;

/// Parameters of some tensors, hash tables apart: all of them, and those that a token meets.
struct Parameters {
  std::size_t all = 0;
  std::size_t met = 0;
  void operator()(const WeightGroup& group) {
    if (group.role == TensorRole::table) return;
    all += group.rows * group.cols * group.count;
    met += group.rows * group.cols * group.used;
  }
  std::string text() const {
    return with_si_unit(static_cast<double>(all)) + " parameters, " +
           with_si_unit(static_cast<double>(met)) + " a token";
  }
};

Parameters layer_parameters(const ConfigValues& c, const LayerInfo& layer) {
  Parameters sum;
  detail::for_each_layer_weight(c, layer.compress_ratio, layer.router == RouterKind::hash, false,
                                [&](const WeightGroup& group) { sum(group); });
  return sum;
}

std::string times(std::size_t a, std::size_t b) {
  return std::to_string(a) + " × " + std::to_string(b);
}

/// What a layer attends to.
std::string keys_text(const ConfigValues& c, const LayerInfo& layer) {
  std::string text = "keys: a window of " + std::to_string(c.sliding_window);
  if (layer.attention == AttentionKind::sliding) return text;
  text += " and entries of " + std::to_string(layer.compress_ratio) + " tokens, ";
  if (layer.attention == AttentionKind::hca) return text + "all of them";
  return text + "the best " + std::to_string(c.index_topk) + " by an indexer of " +
         times(c.index_n_heads, c.index_head_dim);
}

std::string title_of(const LayerInfo& layer) {
  std::string text(look_of(layer.attention).name);
  if (layer.compress_ratio > 0) {
    text += ", compress ratio " + std::to_string(layer.compress_ratio);
  } else {
    text += " window";
  }
  return text;
}

/// Draws boxes from the top of the page down, joined by arrows.
class Stack {
 public:
  explicit Stack(const ConfigValues& config) : c_(config), svg_(kWidth) {}

  void head_line() {
    const Plan p = plan(c_);
    const std::string name = c_.name.empty() ? "DeepSeek-V4 configuration" : c_.name;
    svg_.text(24, 36, name + ": " + std::to_string(c_.num_hidden_layers) + " layers",
              {.size = 19, .bold = true});
    std::string words = with_si_unit(static_cast<double>(p.parameters)) + " parameters, " +
                        with_si_unit(static_cast<double>(p.parameters_active)) +
                        " of them active per token; hidden size " + std::to_string(c_.hidden_size) +
                        ", " + std::to_string(c_.hc_mult) + " residual streams, context " +
                        std::to_string(c_.max_position_embeddings);
    svg_.text(24, 57, words, {.size = 12, .colour = kGrey});
    y_ = 80;
  }

  void plain(std::string_view title, const std::string& words, const std::string& right) {
    arrow();
    svg_.box(kLeft, y_, kRight - kLeft, 50, "#f3f3f3",
             {.colour = kGrey, .width = 1.2, .radius = 5});
    svg_.text(kLeft + 14, y_ + 20, title, {.size = 14, .bold = true});
    svg_.text(kLeft + 14, y_ + 39, words);
    svg_.text(kRight - 14, y_ + 20, right, {.anchor = Svg::Anchor::end, .colour = kGrey});
    y_ += 50;
  }

  /// Where the streams are that an extra layer takes: the next box is the head.
  void fork() { fork_ = y_ + kGap / 2; }

  /// An extra layer, beside the head.
  void extra_layer(const std::string& name, const Parameters& parameters) {
    constexpr const char* kDashes = "6 4";
    y_ += kGap;
    const double x = kRight + 12;
    const double middle = y_ + kBoxHeight / 2;
    svg_.path("M " + whole((kLeft + kRight) / 2) + " " + whole(fork_) + " H " + whole(x) + " V " +
                  whole(middle) + " H " + whole(kRight + 3),
              {.colour = kGrey, .width = 1.5, .dashes = kDashes});
    svg_.path("M " + whole(kRight + 8) + " " + whole(middle - 4) + " l -5 4 l 5 4",
              {.colour = kGrey, .width = 1.5});
    layer_box({c_.num_hidden_layers, 0, AttentionKind::sliding, RouterKind::learned}, name,
              "multi-token prediction: ", parameters, kDashes);
  }

  /// Layers of one kind; `numbers` stands at the left.
  void layer(const LayerInfo& info, const std::string& numbers) {
    arrow();
    layer_box(info, numbers, "", layer_parameters(c_, info));
  }

  /// The layers first .. end - 1, those of a run of one kind as one box.
  void layers(std::size_t first, std::size_t end) {
    while (first < end) {
      const LayerInfo info = layer_info(c_, first);
      std::size_t next = first + 1;
      while (next < end && c_.compress_ratios[next] == info.compress_ratio &&
             layer_info(c_, next).router == info.router) {
        ++next;
      }
      std::string numbers = std::to_string(first);
      if (next - first > 1) {
        numbers += (next - first > 2 ? " to " : ", ") + std::to_string(next - 1);
      }
      layer(info, numbers);
      first = next;
    }
  }

  void pairs(const Schedule& schedule) {
    if (schedule.pairs == 0) return;
    const double top = y_ + kGap;
    for (const std::size_t first : {schedule.prefix, schedule.prefix + 1}) {
      const LayerInfo info = layer_info(c_, first);
      std::string numbers = std::to_string(first);
      if (schedule.pairs > 1) numbers += ", " + std::to_string(first + 2);
      if (schedule.pairs > 2) {
        numbers +=
            (schedule.pairs > 3 ? " … " : ", ") + std::to_string(first + 2 * (schedule.pairs - 1));
      }
      layer(info, numbers);
    }
    const double x = kRight + 12;
    svg_.path("M " + whole(x) + " " + whole(top) + " h 12 v " + whole(y_ - top) + " h -12",
              {.colour = kInk, .width = 2});
    svg_.text(x + 24, (top + y_) / 2 + 7, "× " + std::to_string(schedule.pairs),
              {.size = 20, .bold = true});
  }

  /// Every layer in the order of execution, as small boxes.
  void strip() {
    y_ += 38;
    svg_.text(24, y_, "In order of execution", {.size = 13, .bold = true});
    y_ += 12;
    constexpr std::size_t kPerRow = 43;
    constexpr double kStep = 21;
    for (std::size_t i = 0; i < c_.num_hidden_layers; ++i) {
      const LayerInfo info = layer_info(c_, i);
      const double x = 24 + kStep * static_cast<double>(i % kPerRow);
      const double y = y_ + 30 * static_cast<double>(i / kPerRow);
      svg_.begin_group("class=\"step\"");
      draw_chip(svg_, x, y, kStep - 3, 24, info.attention, info.router);
      svg_.text(x + (kStep - 3) / 2, y + 16, std::to_string(i),
                {.size = 10, .anchor = Svg::Anchor::middle});
      svg_.end_group();
    }
    y_ += 30 * static_cast<double>((c_.num_hidden_layers + kPerRow - 1) / kPerRow);
  }

  std::string finish() {
    y_ += 26;
    draw_legend(svg_, 24, y_);
    return svg_.document(y_ + 22);
  }

 private:
  static std::string whole(double value) { return std::to_string(static_cast<int>(value)); }

  void layer_box(const LayerInfo& info, const std::string& numbers, const std::string& title,
                 const Parameters& parameters, std::string_view dashes = "") {
    const LayerLook look = look_of(info.attention);
    svg_.begin_group("class=\"layer\"");
    svg_.box(kLeft, y_, kRight - kLeft, kBoxHeight, look.fill,
             {.colour = look.edge, .width = 1.5, .dashes = dashes, .radius = 5});
    const bool hash = info.router == RouterKind::hash;
    if (hash) svg_.box(kLeft, y_ + kBoxHeight - 4, kRight - kLeft, 4, kInk, {.radius = 2});
    svg_.text(kLeft - 12, y_ + kBoxHeight / 2 + 5, numbers,
              {.size = 13, .anchor = Svg::Anchor::end, .bold = true});
    svg_.text(kLeft + 14, y_ + 20, title + title_of(info),
              {.size = 14, .colour = look.edge, .bold = true});
    svg_.text(kRight - 14, y_ + 20, parameters.text(),
              {.anchor = Svg::Anchor::end, .colour = kGrey});
    svg_.text(kLeft + 14, y_ + 41,
              "queries " + times(c_.num_attention_heads, c_.head_dim) + " through rank " +
                  std::to_string(c_.q_lora_rank) + ", one shared key and value; output through " +
                  times(c_.o_groups, c_.o_lora_rank));
    svg_.text(kLeft + 14, y_ + 60, keys_text(c_, info));
    svg_.text(kLeft + 14, y_ + 79,
              "experts: " + std::to_string(c_.num_experts_per_tok) + " of " +
                  std::to_string(c_.n_routed_experts) + " by " +
                  (hash ? "a hash table of token ids" : "a learned router") +
                  ", and a shared one, of width " + std::to_string(c_.moe_intermediate_size));
    svg_.end_group();
    y_ += kBoxHeight;
  }

  void arrow() {
    if (!joined_) {
      joined_ = true;
      return;
    }
    const double x = (kLeft + kRight) / 2;
    svg_.line(x, y_, x, y_ + kGap - 3, {.colour = kGrey, .width = 1.5});
    svg_.path("M " + whole(x - 4) + " " + whole(y_ + kGap - 6) + " l 4 5 l 4 -5",
              {.colour = kGrey, .width = 1.5});
    y_ += kGap;
  }

  const ConfigValues& c_;
  Svg svg_;
  double y_ = 0;
  double fork_ = 0;
  bool joined_ = false;
};

std::string picture(const ConfigValues& c) {
  Stack stack(c);
  const Schedule schedule = schedule_of(c);
  const double V = static_cast<double>(c.vocab_size);
  const double D = static_cast<double>(c.hidden_size);
  const std::string table = with_si_unit(V * D) + " parameters";
  stack.head_line();
  stack.plain("Embedding",
              times(c.vocab_size, c.hidden_size) + "; each token's row into all " +
                  std::to_string(c.hc_mult) + " streams",
              table);
  stack.layers(0, schedule.prefix);
  stack.pairs(schedule);
  stack.layers(c.num_hidden_layers - schedule.suffix, c.num_hidden_layers);
  stack.fork();
  stack.plain("Head",
              "the streams become one, norm, " + times(c.vocab_size, c.hidden_size) + ": logits",
              table);
  const std::size_t extra =
      drafter_of(c) == DrafterKind::dspark ? c.dspark_stages : c.num_nextn_predict_layers;
  for (std::size_t i = 0; i < extra; ++i) {
    Parameters parameters;
    for_each_weight(c, [&](const WeightGroup& group) {
      if (group.mtp) parameters(group);
    });
    parameters.all /= extra;
    parameters.met /= extra;
    stack.extra_layer("mtp." + std::to_string(i), parameters);
  }
  stack.strip();
  return stack.finish();
}

void draw(const std::string& name, const std::string& out) {
  const ConfigValues config = named_config(name);
  NewFile file(out);
  write_whole(file, picture(config));
}

void add_options(Verb& verb) {
  struct Options {
    std::string config;
    std::string out;
  };
  auto options = std::make_shared<Options>();
  verb.add_option("CONFIG", options->config, "flash, pro, a config.json or its folder")
      .required()
      .check(expect_path());
  verb.add_option("--out", options->out, "SVG file").required().check(expect_path());
  verb.callback([options] { draw(options->config, options->out); });
}

const VerbRegistration kDraw(130, "draw", "Draw a configuration's layers", add_options);

}  // namespace

}  // namespace ds4::cli
