// Options that several verbs have, and checks of option values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>

#include "cli/verb.hpp"

namespace ds4::cli {

/// Accepts texts that are a T as a whole for which `holds`; `what` says that in words. T is
/// std::int32_t, std::uint64_t, float or double.
template <class T>
Check expect(std::string what, std::function<bool(T)> holds);

/// Accepts whole numbers from `least` to `most`; unless told, the largest that every use has room
/// for.
Check expect_count(std::int32_t least,
                   std::int32_t most = std::numeric_limits<std::int32_t>::max());

/// What --threads accepts: more than any machine has, and not more than a process can start.
inline constexpr std::int32_t kMostThreads = 1024;

/// Threads unless told: ds4::usable_processors(), found out once.
std::size_t default_threads();

Check expect_seed();

/// Accepts what can be the name of a file: a variable that a script forgot to set cannot.
Check expect_path();

/// Adds --tokenizer, and calls `run` with what it is given.
void run_with_tokenizer(Verb& verb, void (*run)(const std::string&));

}  // namespace ds4::cli
