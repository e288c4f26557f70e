// What checkpoint_writer.hpp declares.
#pragma once

#include <array>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/checkpoint/checkpoint_writer.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/linkage.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/new_file.hpp>

namespace ds4::inline v0_1 {

DS4_FUNCTION CheckpointWriter::CheckpointWriter(std::filesystem::path out,
                                                std::vector<Group> groups, std::size_t shard_bytes)
    : out_(std::move(out)), groups_(std::move(groups)) {
  const std::string where = detail::printable_path(out_);
  std::error_code error;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (std::filesystem::exists(std::filesystem::symlink_status(out_ / name, error))) {
      throw Error(ErrorKind::file, where,
                  "expected a folder without a checkpoint, found " + std::string(name));
    }
  }
  assign_shards(shard_bytes);
  made_folder_ = std::filesystem::create_directories(out_, error);
  if (error) throw Error(ErrorKind::file, where, "cannot create: " + error.message());
  try {
    open_shard(0);
  } catch (...) {
    if (made_folder_) std::filesystem::remove(out_, error);
    throw;
  }
}

DS4_FUNCTION CheckpointWriter::~CheckpointWriter() {
  writer_.reset();
  std::error_code ignored;
  const bool unfinished = shard_ < ends_.size();
  for (const auto& file : written_) std::filesystem::remove(file, ignored);
  // Only if there is nothing else in it.
  if (unfinished && made_folder_) std::filesystem::remove(out_, ignored);
}

DS4_FUNCTION std::string CheckpointWriter::shard_name(std::size_t shard) const {
  if (ends_.size() == 1) return "model.safetensors";
  std::array<char, 80> name{};
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", shard + 1,
                ends_.size());
  return name.data();
}

DS4_FUNCTION void CheckpointWriter::assign_shards(std::size_t shard_bytes) {
  std::size_t in_shard = 0;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    std::size_t bytes = 0;
    for (const TensorSpec& tensor : groups_[i]) {
      const auto size = detail::byte_count(tensor.shape, tensor.dtype);
      if (!size || *size > std::numeric_limits<std::size_t>::max() / 2 - bytes) {
        throw Error(ErrorKind::file, detail::printable_path(out_),
                    detail::printable(tensor.name) + ": its size overflows");
      }
      bytes += *size;
    }
    if (in_shard > 0 && (in_shard > shard_bytes || bytes > shard_bytes - in_shard)) {
      ends_.push_back(i);
      in_shard = 0;
    }
    in_shard += bytes;
    total_bytes_ += bytes;
  }
  ends_.push_back(groups_.size());
}

DS4_FUNCTION void CheckpointWriter::open_shard(std::size_t shard) {
  shard_ = shard;
  std::vector<TensorSpec> tensors;
  first_tensors_.clear();
  for (std::size_t i = begin_of(shard); i < ends_[shard]; ++i) {
    first_tensors_.push_back(tensors.size());
    tensors.insert(tensors.end(), groups_[i].begin(), groups_[i].end());
  }
  writer_ =
      std::make_unique<SafetensorsWriter>(out_ / shard_name(shard), std::move(tensors),
                                          std::map<std::string, std::string>{{"format", "pt"}});
}

DS4_FUNCTION void CheckpointWriter::finish_shard() {
  writer_->finish();
  written_.push_back(out_ / shard_name(shard_));
  writer_.reset();
}

DS4_FUNCTION void CheckpointWriter::write(std::size_t group, std::size_t tensor,
                                          std::span<const std::byte> bytes) {
  if (!writer_ || group < begin_of(shard_) || group >= groups_.size()) {
    throw Error(
        ErrorKind::file, detail::printable_path(out_),
        "expected the group written last or the next one, found group " + std::to_string(group));
  }
  while (group >= ends_[shard_] && shard_ + 1 < ends_.size()) {
    finish_shard();
    open_shard(shard_ + 1);
  }
  writer_->write(first_tensors_[group - begin_of(shard_)] + tensor, bytes);
}

DS4_FUNCTION void CheckpointWriter::finish(const std::map<std::string, std::string>& files) {
  if (!writer_) throw Error(ErrorKind::file, detail::printable_path(out_), "finished already");
  const bool has_index = ends_.size() > 1;
  while (shard_ + 1 < ends_.size()) {  // says what is missing if this is not the last one
    finish_shard();
    open_shard(shard_ + 1);
  }
  if (has_index) finish_shard();
  std::list<std::pair<std::filesystem::path, NewFile>> texts;
  const auto stage = [&](const std::string& name, const std::string& content) {
    auto& text = texts.emplace_back(std::piecewise_construct, std::tuple(out_ / name),
                                    std::tuple(out_ / name));
    text.second.write_at(0, std::as_bytes(std::span(content)));
  };
  for (const auto& [name, content] : files) stage(name, content);
  if (has_index) stage("model.safetensors.index.json", index());
  for (auto& [path, file] : texts) {
    file.finish();
    written_.push_back(path);
  }
  if (!has_index) finish_shard();
  written_.clear();
  shard_ = ends_.size();
}

DS4_FUNCTION std::string CheckpointWriter::index() const {
  nlohmann::json weight_map = nlohmann::json::object();
  for (std::size_t shard = 0; shard < ends_.size(); ++shard) {
    for (std::size_t i = begin_of(shard); i < ends_[shard]; ++i) {
      for (const TensorSpec& tensor : groups_[i]) weight_map[tensor.name] = shard_name(shard);
    }
  }
  const nlohmann::json root = {{"metadata", {{"total_size", total_bytes_}}},
                               {"weight_map", std::move(weight_map)}};
  return root.dump(1) + "\n";
}

}  // namespace ds4::inline v0_1
