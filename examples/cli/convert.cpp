// ds4 convert: stores a checkpoint in another format.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>

#include <ds4/checkpoint/convert.hpp>
#include <ds4/core/error.hpp>

#include "cli/io.hpp"
#include "cli/json.hpp"
#include "cli/options.hpp"
#include "cli/progress.hpp"
#include "cli/storage_formats.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct ConvertVerbOptions {
  std::string dir;
  std::string format;
  std::string out;
  double shard_size = 5.0;  // GB
  bool json = false;
};

void print_json(const Conversion& conversion, const std::string& format) {
  Json changes = Json::array();
  for (const StorageChange& change : conversion.changes) {
    changes.push_back({{"kind", change.kind},
                       {"tensors", change.tensors},
                       {"from", change.from},
                       {"to", change.to},
                       {"values", change.error.compared},
                       {"largest_error", change.error.largest},
                       {"relative_rms_error", change.error.relative_rms()}});
  }
  const Json json = {{"format", format},
                     {"tensors", conversion.tensors},
                     {"bytes", conversion.bytes},
                     {"files", conversion.files},
                     {"left_out", conversion.left_out},
                     {"images_left_out", conversion.images_left_out},
                     {"changes", std::move(changes)}};
  print(json.dump_lines() + "\n");
}

void print_table(const Conversion& conversion) {
  std::string text = std::to_string(conversion.tensors) + " tensors, " +
                     std::to_string(conversion.bytes) + " bytes, in " +
                     std::to_string(conversion.files) +
                     (conversion.files == 1 ? " file" : " files");
  if (conversion.changes.empty()) {
    print(text + "; all of them were stored so already\n");
    return;
  }
  std::size_t kind = 0;
  std::size_t from = 4;
  for (const StorageChange& change : conversion.changes) {
    kind = std::max(kind, change.kind.size());
    from = std::max(from, change.from.size());
  }
  const auto line = [&](const char* name, const char* tensors, const char* before,
                        const char* after, const char* largest, const char* rms) {
    char row[240];
    std::snprintf(row, sizeof(row), "%-*s  %7s  %-*s  %-7s  %13s  %10s\n", static_cast<int>(kind),
                  name, tensors, static_cast<int>(from), before, after, largest, rms);
    text += row;
  };
  text += "\n";
  line("", "tensors", "from", "to", "largest error", "RMS / RMS");
  for (const StorageChange& change : conversion.changes) {
    char largest[32];
    char rms[32];
    std::snprintf(largest, sizeof(largest), "%.3g", change.error.largest);
    std::snprintf(rms, sizeof(rms), "%.3g", change.error.relative_rms());
    line(change.kind.c_str(), std::to_string(change.tensors).c_str(), change.from.c_str(),
         change.to.c_str(), largest, rms);
  }
  print(text);
}

void convert_checkpoint(const ConvertVerbOptions& options) {
  catch_interrupts();
  ConvertOptions wanted;
  wanted.format = kStorageFormats.at(options.format);
  wanted.shard_bytes = static_cast<std::size_t>(options.shard_size * 1e9);
  ProgressBar bar;
  wanted.progress = [&](std::size_t written, std::size_t total) {
    if (interrupted()) throw Error("convert", "interrupted");
    bar.show(written, total);
  };
  const Conversion conversion = convert(options.dir, options.out, wanted);
  warn(conversion.warnings);
  if (conversion.left_out > 0) {
    print_error("mtp.*: " + std::to_string(conversion.left_out) +
                " tensors left out, as config.json announces no drafter\n");
  }
  if (conversion.images_left_out > 0) {
    print_error(std::to_string(conversion.images_left_out) +
                " tensors that see images left out, as ds4 reads text alone\n");
  }
  if (options.json) {
    print_json(conversion, options.format);
  } else {
    print_table(conversion);
  }
}

void add_options(Verb& verb) {
  auto options = std::make_shared<ConvertVerbOptions>();
  verb.add_option("DIR", options->dir, "Folder of the checkpoint").required().check(expect_path());
  verb.add_option("--format", options->format, "Storage of the matrices")
      .required()
      .one_of({"release", "bf16", "f32"});
  verb.add_option("--out", options->out, "Folder to write; made if it is missing")
      .required()
      .check(expect_path());
  verb.add_option("--shard-size", options->shard_size, "GB of tensors in a file, at most")
      .capture_default_str()
      .check(expect<double>("a number of GB from 1e-6 to 1e6",
                            [](double value) { return value >= 1e-6 && value <= 1e6; }));
  verb.add_flag("--json", options->json, "Print one JSON object");
  verb.callback([options] { convert_checkpoint(*options); });
}

const VerbRegistration kConvert(110, "convert", "Store a checkpoint in another format",
                                add_options);

}  // namespace

}  // namespace ds4::cli
