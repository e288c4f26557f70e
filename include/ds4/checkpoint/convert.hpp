// Stores a checkpoint's tensors in another format: F32, BF16 or the release's FP8 and FP4.
#pragma once

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <ds4/checkpoint/storage.hpp>

namespace ds4::inline v0_1 {

/// What convert() is asked for beside the folders.
struct ConvertOptions {
  StorageFormat format = StorageFormat::release;  ///< what to write
  std::size_t shard_bytes = 5'000'000'000;        ///< of tensors in a file, see CheckpointWriter
  /// Called with bytes written and bytes in all. What it throws ends the conversion.
  std::function<void(std::size_t, std::size_t)> progress;
};

/// Values against what they were, in float64. A value that was not finite does not count.
struct StorageError {
  double largest = 0.0;      ///< largest absolute error
  double squares = 0.0;      ///< sum of squared errors
  double of_values = 0.0;    ///< sum of squared values
  std::size_t compared = 0;  ///< values

  /// Root-mean-square error in units of the root-mean-square value; 0 if there is no error.
  double relative_rms() const { return squares > 0.0 ? std::sqrt(squares / of_values) : 0.0; }

  /// Counts values in, beside what became of them.
  void add(std::span<const float> values, std::span<const float> stored);
};

/// The tensors of one kind that went from one storage to another.
struct StorageChange {
  std::string kind;         ///< "routed experts", "norms", ...
  std::string from;         ///< "BF16", "FP4", "F8_E4M3 (F32 scales)", ...
  std::string to;           ///< likewise
  std::size_t tensors = 0;  ///< without scales
  StorageError error;       ///< of all their values
};

/// What convert() has done.
struct Conversion {
  std::vector<StorageChange> changes;  ///< in the order of the tensors
  std::size_t tensors = 0;             ///< written, without scales
  std::size_t bytes = 0;               ///< of all tensors written
  std::size_t files = 0;               ///< of tensors
  std::size_t left_out = 0;            ///< tensors mtp.* that config.json does not announce
  std::size_t images_left_out = 0;     ///< tensors of a part that sees images
  std::vector<std::string> warnings;   ///< as Checkpoint::warnings() has them
};

/// Writes the checkpoint in `dir` to the folder `out` in another format, under the release's names,
/// each tensor as storage_of() says; one that is stored so already is copied byte by byte. Any
/// checkpoint that Checkpoint::open() opens and whose tensors are those of its config.json will do,
/// each in any storage that TensorReader reads. Tensors mtp.* are converted if the configuration
/// announces them, and left out otherwise; so are those of list_vision_tensors().
///
/// F32 and BF16 have the values that StoredMatrix::decode_row() gives in float32, BF16 rounded to
/// nearest, ties to even: without loss for what was in FP8 or FP4 with F8_E8M0 scales, unless a
/// product of scale and code is below the normal numbers. FP8 and FP4 are quantised by
/// quantise_fp8() and quantise_fp4(): NaN stays NaN in FP8; infinities in what becomes FP8 or FP4,
/// and NaN in what becomes FP4, are errors. From BF16 to release, BF16, release, BF16 the two BF16s
/// have the same values, and so have the two releases. Their bytes are the same as well, but for
/// blocks whose largest code the rounding has brought to half of what their scale allows (224 of
/// 448, 3 of 6): the rule gives these half the scale, once.
///
/// config.json is the source's with the fields that state the storage set to what is written, and
/// without those of a part that sees images; tokenizer.json, tokenizer_config.json and
/// generation_config.json are copied. Memory is that of 128 rows of the widest matrix and of the
/// list of tensors.
///
/// Throws ds4::Error before anything is written if a tensor is missing, misshapen, surplus or of a
/// dtype that it cannot have, or if `out` is `dir` or holds a checkpoint; later if values cannot be
/// stored or files not written. `out` then holds nothing that was not there before.
Conversion convert(const std::filesystem::path& dir, const std::filesystem::path& out,
                   const ConvertOptions& options);

}  // namespace ds4::inline v0_1

#ifndef DS4_COMPILED
#include <ds4/checkpoint/convert_definitions.hpp>
#endif
