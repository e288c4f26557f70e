// Writes a checkpoint folder: one safetensors file, or shards with their index.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>

namespace ds4::inline v0_1 {

/// Writes groups of tensors, one group after the other, to a folder that Checkpoint::open() reads:
/// model.safetensors if they fit in shard_bytes, else model-00001-of-0000N.safetensors with
/// model.safetensors.index.json. A group stays in one file, so that a shard can be larger than
/// shard_bytes by a group that is. What makes the folder a checkpoint, the index or the only file,
/// appears last; a writer that goes away unfinished removes what it has written.
class CheckpointWriter {
 public:
  /// Tensors that stay in one file.
  using Group = std::vector<TensorSpec>;

  /// Makes the folder `out` if it is missing. Throws ds4::Error if it holds a checkpoint, or if it
  /// or a file in it cannot be created.
  CheckpointWriter(std::filesystem::path out, std::vector<Group> groups, std::size_t shard_bytes);
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter();

  /// Appends bytes to tensor number `tensor` of a group: the one written last, or the next one.
  /// Throws ds4::Error as SafetensorsWriter::write() does.
  void write(std::size_t group, std::size_t tensor, std::span<const std::byte> bytes);

  /// Completes the folder, with further files by name and content; files that have these names, or
  /// the names of the shards, are replaced. Throws ds4::Error if data are missing or a file cannot
  /// be written.
  void finish(const std::map<std::string, std::string>& files);

  /// Files of tensors.
  std::size_t shards() const { return ends_.size(); }
  /// Bytes of all tensors.
  std::size_t total_bytes() const { return total_bytes_; }

 private:
  std::string shard_name(std::size_t shard) const;
  std::size_t begin_of(std::size_t shard) const { return shard == 0 ? 0 : ends_[shard - 1]; }
  void assign_shards(std::size_t shard_bytes);
  void open_shard(std::size_t shard);
  void finish_shard();
  std::string index() const;

  std::filesystem::path out_;
  std::vector<Group> groups_;
  std::vector<std::size_t> ends_;  // of each shard, the group behind its last
  std::size_t total_bytes_ = 0;
  bool made_folder_ = false;
  std::size_t shard_ = 0;                       // the one being written
  std::unique_ptr<SafetensorsWriter> writer_;   // none once finished
  std::vector<std::size_t> first_tensors_;      // of each group of the shard, in the file
  std::vector<std::filesystem::path> written_;  // under their final names; empty once finished
};

}  // namespace ds4::inline v0_1

#ifndef DS4_COMPILED
#include <ds4/checkpoint/checkpoint_writer_definitions.hpp>
#endif
