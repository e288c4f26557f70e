// Pictures as SVG: a page of shapes and texts. The paper is part of the picture, so that it reads
// on any background.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace ds4::cli {

inline constexpr std::string_view kPaper = "#ffffff";
inline constexpr std::string_view kInk = "#222222";
inline constexpr std::string_view kGrey = "#666666";
inline constexpr std::string_view kGrid = "#dddddd";

/// Six colours from little to much.
inline constexpr std::array<std::string_view, 6> kHeat{"#d6e6f4", "#abd0e6", "#6aaed6",
                                                       "#3787c0", "#105ba4", "#08264f"};

/// Three digits: "0.0123", "4.56", "1230".
std::string three_digits(double value);

/// A count with its unit: "512", "4.10 k", "284 G".
std::string with_si_unit(double count);

class Svg {
 public:
  explicit Svg(double width) : width_(width) {}

  enum class Anchor : std::uint8_t { start, middle, end };
  struct TextStyle {
    double size = 12;
    Anchor anchor = Anchor::start;
    std::string_view colour = kInk;
    bool bold = false;
  };
  struct Stroke {
    std::string_view colour = "none";
    double width = 1;
    std::string_view dashes = "";
    double radius = 0;  ///< of a box's corners
  };

  double width() const { return width_; }

  /// Any text: what XML cannot hold is escaped. y is the baseline.
  void text(double x, double y, std::string_view text, const TextStyle& style);
  void text(double x, double y, std::string_view words) { text(x, y, words, TextStyle{}); }
  void box(double x, double y, double width, double height, std::string_view fill,
           const Stroke& stroke);
  void box(double x, double y, double width, double height, std::string_view fill) {
    box(x, y, width, height, fill, Stroke{});
  }
  void line(double x1, double y1, double x2, double y2, const Stroke& stroke);
  /// A path of SVG's commands, not filled.
  void path(std::string_view commands, const Stroke& stroke);

  /// Cells of one row side by side, colour(value) each, "" for none; equal neighbours become one.
  void cells(double x, double y, double cell_width, double height, std::span<const double> values,
             const std::function<std::string_view(double)>& colour);

  /// What follows until end_group() belongs together; attributes as XML has them.
  void begin_group(std::string_view attributes);
  void end_group();

  /// The file: the page on paper of this height.
  std::string document(double height) const;

 private:
  double width_;
  std::string items_;
};

/// text with &, <, > and quotes escaped, and what XML does not allow made printable.
std::string xml_escaped(std::string_view text);

}  // namespace ds4::cli
