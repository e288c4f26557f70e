// What a backend launches for a token or a prompt, and what that would take on GPUs at best.
#pragma once

#include <string>
#include <vector>

#include <ds4/runtime/any_model.hpp>

#include "cli/json.hpp"

namespace ds4::cli {

/// The launches by label, their sum, and for each GPU the least time in which it could move the
/// bytes or do the operations of each launch, whichever takes longer: an estimate, without the time
/// that launches take.
Json launches_json(const std::vector<Launches>& launches);

/// The same as a table, each line with `phase` in front.
std::string launches_table(const std::string& phase, const Json& launches);

}  // namespace ds4::cli
