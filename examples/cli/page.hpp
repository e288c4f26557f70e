// The page that ds4 serve shows at /.
#pragma once

#include <string_view>

namespace ds4::cli {

/// page.html. Generated from page.cpp.in.
extern const std::string_view kPage;

}  // namespace ds4::cli
