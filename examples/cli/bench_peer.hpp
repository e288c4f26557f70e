// ds4 bench --peer-protocol: a program that measures this one beside others asks for what it needs.
#pragma once

#include "cli/model_choice.hpp"

namespace ds4::cli {

/// Answers one request a line of standard input: prefill, decode, logits, rss, quit.
void serve_peer(const ModelChoice& choice);

}  // namespace ds4::cli
