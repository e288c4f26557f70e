// The program on several ranks of MPI: rank 0 runs the verb, the others compute along.
#pragma once

#include <filesystem>
#include <memory>

#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/compiled_model.hpp>

namespace ds4::cli {

#ifdef DS4_CLI_MPI

/// Whether a launcher of MPI has started this process; false for one that was started by hand.
bool is_on_ranks();

/// Runs the program on rank 0, and on each other rank what rank 0's models want of it. Returns what
/// the program does, and 0 on the others. What the program throws comes out; a rank that fails
/// alone says so in one line and ends all of them with exit code 1.
int run_on_ranks(int (*program)(int, char**), int argc, char** argv);

/// Loads a model that all ranks run together, for the calls of rank 0: each has its share of the
/// weights, from the same folder.
std::unique_ptr<AnyModel> load_on_ranks(const CompiledModel& model,
                                        const std::filesystem::path& dir,
                                        const BackendOptions& options);

#endif

}  // namespace ds4::cli
