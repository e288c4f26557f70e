#include "cli/progress.hpp"

#include <cstddef>
#include <string>

#include "cli/io.hpp"

namespace ds4::cli {

ProgressBar::~ProgressBar() {
  if (shown_ >= 0 && shown_ < 100) print_error("\n");
}

void ProgressBar::show(std::size_t written, std::size_t total) {
  const int percent =
      static_cast<int>(100.0 * static_cast<double>(written) / static_cast<double>(total));
  if (percent == shown_ || !error_is_terminal()) return;
  shown_ = percent;
  print_error("\r" + std::to_string(percent) + " % of " + std::to_string(total / 1000000) + " MB" +
              (percent == 100 ? "\n" : ""));
}

}  // namespace ds4::cli
