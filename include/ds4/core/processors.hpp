// How many threads compute, and on which processors: one rule for all of ds4.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <vector>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// The numbers of the processors that the calling thread may run on (its affinity mask), rising;
/// none where the system does not tell.
std::vector<int> allowed_processors();

///@{
/// The folder `root` is the machine's: it has proc/ and sys/. What is missing or malformed in it
/// says nothing.

/// One of the processors of each core, the first of those that are allowed: threads that are
/// siblings in a core have its arithmetic only once.
std::vector<int> one_processor_per_core(const std::vector<int>& allowed,
                                        const std::filesystem::path& root = "/");

/// How many processors' time the process may take, by the smallest quota of its control groups
/// (version 1 or 2) and of those that they are in, as far as these can be seen; none: all.
std::optional<double> processor_quota(const std::filesystem::path& root = "/");

/// The number of threads that compute unless told otherwise: one for each core of the affinity
/// mask, and not more than the whole processors of the quota, but at least one. Threads of a team
/// wait for each other, and with 1.5 processors for two the scheduler stops both half of the time.
std::size_t usable_processors(const std::vector<int>& allowed = allowed_processors(),
                              const std::filesystem::path& root = "/");
///@}

}  // namespace ds4::inline v0_1

#ifndef DS4_COMPILED
#include <ds4/core/processors_definitions.hpp>
#endif
