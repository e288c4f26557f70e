// --backend and --threads of training: which model trains, and on what.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include <ds4/config/config_values.hpp>
#include <ds4/runtime/any_trainable.hpp>

#include "cli/verb.hpp"

namespace ds4::cli {

/// The model of this configuration, which `config_file` states, on this backend. Throws ds4::Error
/// if it is not compiled in (the text then says what to do about it) or cannot be loaded.
std::unique_ptr<AnyTrainable> make_trainable(const ConfigValues& config,
                                             const std::filesystem::path& config_file,
                                             const std::string& backend,
                                             const TrainableSource& source);

/// Adds --backend and --threads, as they are for training, to a verb.
void add_training_backend_options(Verb& verb, std::string& backend, std::size_t& threads);

}  // namespace ds4::cli
