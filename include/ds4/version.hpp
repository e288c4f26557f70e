// The version of the library. All of it is in the inline namespace ds4::v0_1, so that two versions
// in one program do not mix: a user writes ds4::Model, the linker sees ds4::v0_1::Model.
#pragma once

#include <string_view>

#define DS4_VERSION_MAJOR 0
#define DS4_VERSION_MINOR 1
#define DS4_VERSION_PATCH 0

/// DeepSeek-V4 as C++ types.
namespace ds4::inline v0_1 {

/// Major, minor and patch, as in the package. Before 1.0, minor versions are not compatible.
inline constexpr std::string_view kLibraryVersion = "0.1.0";

}  // namespace ds4::inline v0_1
