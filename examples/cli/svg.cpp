#include "cli/svg.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include <ds4/core/messages.hpp>

namespace ds4::cli {

namespace {

/// A coordinate: up to two decimals.
std::string number(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof(buffer), "%.2f", value);
  std::string text = buffer;
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string attribute(std::string_view name, std::string_view value) {
  return std::string(" ").append(name).append("=\"").append(value).append("\"");
}
std::string attribute(std::string_view name, double value) {
  return attribute(name, number(value));
}

std::string attributes(const Svg::Stroke& stroke) {
  std::string text = attribute("stroke", stroke.colour) + attribute("stroke-width", stroke.width);
  if (!stroke.dashes.empty()) text += attribute("stroke-dasharray", stroke.dashes);
  return text;
}

}  // namespace

std::string three_digits(double value) {
  if (value == 0.0) return "0";
  const double digits = 2.0 - std::floor(std::log10(std::abs(value)));
  char buffer[64];
  std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(std::clamp(digits, 0.0, 9.0)),
                value);
  return buffer;
}

std::string with_si_unit(double count) {
  static constexpr std::string_view kUnits = "kMGTPE";
  if (count < 1000.0) return number(count);
  std::size_t unit = 0;
  for (count /= 1000.0; count >= 999.5 && unit + 1 < kUnits.size(); count /= 1000.0) ++unit;
  return three_digits(count) + " " + kUnits[unit];
}

std::string xml_escaped(std::string_view text) {
  std::string out;
  const std::string plain = detail::printable(text, std::numeric_limits<std::size_t>::max());
  for (std::size_t i = 0; i < plain.size(); ++i) {
    switch (plain[i]) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\xEF':  // U+FFFE and U+FFFF are no characters of XML
        if (plain.compare(i, 3, "\xEF\xBF\xBE") == 0 || plain.compare(i, 3, "\xEF\xBF\xBF") == 0) {
          out += "?";
          i += 2;
          break;
        }
        [[fallthrough]];
      default:
        out += plain[i];
    }
  }
  return out;
}

void Svg::text(double x, double y, std::string_view text, const TextStyle& style) {
  items_ += "<text" + attribute("x", x) + attribute("y", y) + attribute("font-size", style.size) +
            attribute("fill", style.colour);
  if (style.anchor != Anchor::start) {
    items_ += attribute("text-anchor", style.anchor == Anchor::middle ? "middle" : "end");
  }
  if (style.bold) items_ += attribute("font-weight", "bold");
  items_ += ">" + xml_escaped(text) + "</text>\n";
}

void Svg::box(double x, double y, double width, double height, std::string_view fill,
              const Stroke& stroke) {
  items_ += "<rect" + attribute("x", x) + attribute("y", y) + attribute("width", width) +
            attribute("height", height) + attribute("fill", fill);
  if (stroke.radius > 0) items_ += attribute("rx", stroke.radius);
  if (stroke.colour != "none") items_ += attributes(stroke);
  items_ += "/>\n";
}

void Svg::line(double x1, double y1, double x2, double y2, const Stroke& stroke) {
  items_ += "<line" + attribute("x1", x1) + attribute("y1", y1) + attribute("x2", x2) +
            attribute("y2", y2) + attributes(stroke) + "/>\n";
}

void Svg::path(std::string_view commands, const Stroke& stroke) {
  items_ +=
      "<path" + attribute("d", commands) + attribute("fill", "none") + attributes(stroke) + "/>\n";
}

void Svg::cells(double x, double y, double cell_width, double height,
                std::span<const double> values,
                const std::function<std::string_view(double)>& colour) {
  for (std::size_t i = 0; i < values.size();) {
    const std::string_view fill = colour(values[i]);
    std::size_t next = i + 1;
    while (next < values.size() && colour(values[next]) == fill) ++next;
    if (!fill.empty()) {
      box(x + cell_width * static_cast<double>(i), y, cell_width * static_cast<double>(next - i),
          height, fill);
    }
    i = next;
  }
}

void Svg::begin_group(std::string_view attributes) {
  items_.append("<g ").append(attributes).append(">\n");
}
void Svg::end_group() { items_ += "</g>\n"; }

std::string Svg::document(double height) const {
  return "<svg xmlns=\"http://www.w3.org/2000/svg\"" + attribute("width", width_) +
         attribute("height", height) +
         attribute("viewBox", "0 0 " + number(width_) + " " + number(height)) +
         attribute("font-family",
                   "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif") +
         ">\n<rect" + attribute("width", width_) + attribute("height", height) +
         attribute("rx", 6.0) + attribute("fill", kPaper) + "/>\n" + items_ + "</svg>\n";
}

}  // namespace ds4::cli
