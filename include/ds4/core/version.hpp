// The version of the library. All of it is in the inline namespace ds4::v0_1, so that two versions
// in one program do not mix: a user writes ds4::Model, the linker sees ds4::v0_1::Model. The
// basic headers include this one, so that a compiler that cannot read them says so first.
#pragma once

#if defined(__clang__)
#if __clang_major__ < 16
#error "ds4 needs Clang 16 or later, or GCC 12 or later"
#endif
#elif defined(__GNUC__) && __GNUC__ < 12
#error "ds4 needs GCC 12 or later, or Clang 16 or later"
#endif
#if __cplusplus < 202002L
#error "ds4 needs C++20: compile with -std=c++20 or later"
#endif

#include <string_view>

#define DS4_VERSION_MAJOR 0
#define DS4_VERSION_MINOR 1
#define DS4_VERSION_PATCH 0

/// DeepSeek-V4 as C++ types.
namespace ds4::inline v0_1 {

/// Major, minor and patch, as in the package. Before 1.0, minor versions are not compatible.
inline constexpr std::string_view kLibraryVersion = "0.1.0";

}  // namespace ds4::inline v0_1
