// The verbs: each function adds one to the command line, with its options and what it does.
#pragma once

namespace CLI {
class App;
}

namespace ds4::cli {

void add_run(CLI::App& app);
void add_chat(CLI::App& app);
void add_logits(CLI::App& app);
void add_perplexity(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_detokenize(CLI::App& app);
void add_inspect(CLI::App& app);
void add_bench(CLI::App& app);
void add_synth(CLI::App& app);
void add_plan(CLI::App& app);
void add_convert(CLI::App& app);
void add_trace(CLI::App& app);
void add_draw(CLI::App& app);
void add_routes(CLI::App& app);
void add_attend(CLI::App& app);
void add_check(CLI::App& app);
void add_gradients(CLI::App& app);
void add_train(CLI::App& app);

}  // namespace ds4::cli
