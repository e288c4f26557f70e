// The operations of the model, one by one, at the shapes of DeepSeek-V4-Flash: the reference
// backend (one thread) beside the SIMD backend, after the machine's own limits; last, a checkpoint
// that is opened. Run all of them, or those whose name matches, and draw a chart of the result:
//
//   build/release/bench/ds4_bench --benchmark_out=result.json
//   build/release/bench/ds4_bench --benchmark_filter='limits|linear/.*tokens:1/' --threads=2
//   bench/plot result.json result.svg
//
// DS4_SIMD=avx2 or baseline chooses another instruction set than the machine's best. The largest
// input, the head in float32, needs 5 GB for a moment; all of it takes some minutes.
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "support.hpp"

int main(int argc, char** argv) try {
  constexpr std::string_view kThreads = "--threads=";
  std::vector<char*> arguments;
  for (int i = 0; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with(kThreads)) {
      arguments.push_back(argv[i]);
      continue;
    }
    const std::string value(argument.substr(kThreads.size()));
    if (value.empty() || value.size() > 4 ||
        value.find_first_not_of("0123456789") != std::string::npos) {
      std::cerr << "--threads: found \"" << value << "\", expected a number\n";
      return 1;
    }
    ds4::bench::threads = std::stoul(value);
  }
  int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;

  const auto simd = ds4::bench::make_backend<ds4::Simd>();
  benchmark::AddCustomContext("ds4_instruction_set", simd.instruction_set());
  benchmark::AddCustomContext("ds4_threads", std::to_string(simd.threads()));

  ds4::bench::add_limits();
  ds4::bench::add_linear();
  ds4::bench::add_experts();
  ds4::bench::add_attention();
  ds4::bench::add_indexer();
  ds4::bench::add_hyper_connection();
  ds4::bench::add_elementwise();
  ds4::bench::add_checkpoint();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
