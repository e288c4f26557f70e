#include "cli/launches.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

namespace ds4::cli {
namespace {

/// A GPU's limits as its vendor states them: memory bandwidth, and float32 without matrix units.
struct Gpu {
  const char* name;
  double bytes_per_s;
  double flops_per_s;
};
constexpr std::array<Gpu, 2> kGpus{{{"H100 SXM", 3.35e12, 66.9e12}, {"MI300X", 5.3e12, 163.4e12}}};

}  // namespace

Json launches_json(const std::vector<Launches>& launches) {
  Json kernels = Json::array();
  std::size_t count = 0;
  double bytes = 0.0;
  double flops = 0.0;
  std::array<double, kGpus.size()> seconds{};
  for (const Launches& launch : launches) {
    Json kernel = {{"label", launch.label},
                   {"launches", launch.count},
                   {"bytes", launch.bytes},
                   {"flops", launch.flops}};
    count += launch.count;
    bytes += launch.bytes;
    flops += launch.flops;
    for (std::size_t i = 0; i < kGpus.size(); ++i) {
      const double least =
          std::max(launch.bytes / kGpus[i].bytes_per_s, launch.flops / kGpus[i].flops_per_s);
      kernel["estimated_seconds"][kGpus[i].name] = least;
      seconds[i] += least;
    }
    kernels.push_back(kernel);
  }
  Json result = {{"launches", count}, {"bytes", bytes}, {"flops", flops}};
  for (std::size_t i = 0; i < kGpus.size(); ++i) {
    result["estimated_seconds"][kGpus[i].name] = seconds[i];
  }
  result["kernels"] = kernels;
  return result;
}

std::string launches_table(const std::string& phase, const Json& launches) {
  std::string text;
  const auto line = [&](const std::string& label, const Json& of) {
    char buffer[200];
    std::snprintf(buffer, sizeof(buffer), "%-8s %-30s %5zu launches %10.3f MB %11.3f MFLOP",
                  phase.c_str(), label.c_str(), of["launches"].count(), of["bytes"].number() / 1e6,
                  of["flops"].number() / 1e6);
    text += buffer;
    for (const auto& [gpu, seconds] : of["estimated_seconds"].members()) {
      std::snprintf(buffer, sizeof(buffer), "  %s %.1f us", gpu.c_str(), seconds.number() * 1e6);
      text += buffer;
    }
    text += "\n";
  };
  for (const Json& kernel : launches["kernels"].elements()) line(kernel["label"].text(), kernel);
  line("all (GPU times are estimates)", launches);
  return text;
}

}  // namespace ds4::cli
