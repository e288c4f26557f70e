// A checkpoint folder with as many tensors as Flash: what it takes to open it and to tell its
// weights from others, with its pages in the page cache.
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <unistd.h>

#include <ds4/checkpoint/safetensors.hpp>

#include "support.hpp"

namespace ds4::bench {
namespace {

constexpr std::size_t kTensors = 70'000;
constexpr std::size_t kBytes = std::size_t{16} << 10;  // of a tensor: its two ends in two pages

/// One sparse file.
class Folder {
 public:
  Folder() {
    std::filesystem::create_directory(path_);
    std::string header;
    for (std::size_t i = 0; i < kTensors; ++i) {
      header += (i == 0 ? "{\"layers." : ",\"layers.") + std::to_string(i) +
                ".weight\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(kBytes) +
                "],\"data_offsets\":[" + std::to_string(i * kBytes) + "," +
                std::to_string((i + 1) * kBytes) + "]}";
    }
    header += "}";
    std::string length;
    for (unsigned i = 0; i < 8; ++i) length += static_cast<char>(header.size() >> (8 * i) & 0xff);
    const auto file = path_ / "model.safetensors";
    std::ofstream(file, std::ios::binary) << length << header;
    std::filesystem::resize_file(file, 8 + header.size() + kTensors * kBytes);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("ds4_bench_" + std::to_string(::getpid()));
};

class Open {
 public:
  void run(benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(Checkpoint::open(folder_.path()).path());
    set_rates(state, 0.0, 0.0);
  }

 private:
  Folder folder_;
};

class Fingerprint {
 public:
  void run(benchmark::State& state) {
    for (auto _ : state) {
      state.PauseTiming();
      const Checkpoint checkpoint = Checkpoint::open(folder_.path());  // one asks only once
      state.ResumeTiming();
      benchmark::DoNotOptimize(checkpoint.fingerprint());
    }
    set_rates(state, 0.0, 0.0);
  }

 private:
  Folder folder_;
};

}  // namespace

void add_checkpoint() {
  const std::string tensors = "/tensors:" + std::to_string(kTensors);
  add<Open>("checkpoint/open" + tensors)->Unit(benchmark::kMillisecond);
  add<Fingerprint>("checkpoint/fingerprint" + tensors)->Unit(benchmark::kMillisecond);
}

}  // namespace ds4::bench
