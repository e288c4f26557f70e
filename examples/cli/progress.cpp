#include "cli/progress.hpp"

#include <cstddef>
#include <string>

#include "cli/io.hpp"

namespace ds4::cli {

namespace {
constexpr const char* kEraseLine = "\r\x1b[K";
}

ProgressBar::~ProgressBar() {
  if (shown_ >= 0 && shown_ < 100) print_error(of_ == Of::tokens ? kEraseLine : "\n");
}

void ProgressBar::show(std::size_t done, std::size_t total) {
  const int percent =
      static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total));
  if (percent == shown_ || !error_is_terminal()) return;
  shown_ = percent;
  const std::string text = std::to_string(percent) + " % of ";
  if (of_ == Of::bytes) {
    print_error("\r" + text + std::to_string(total / 1000000) + " MB" +
                (percent == 100 ? "\n" : ""));
  } else if (percent == 100) {
    print_error(kEraseLine);
  } else {
    constexpr std::size_t kWidth = 20;
    const std::size_t filled = kWidth * static_cast<std::size_t>(percent) / 100;
    print_error("\r[" + std::string(filled, '#') + std::string(kWidth - filled, ' ') + "] " + text +
                std::to_string(total) + " tokens");
  }
}

}  // namespace ds4::cli
