// Formats of checkpoints by the names that options have for them.
#pragma once

#include <map>
#include <string>

#include <ds4/checkpoint/storage.hpp>

namespace ds4::cli {

inline const std::map<std::string, StorageFormat> kStorageFormats{
    {"f32", StorageFormat::f32},
    {"bf16", StorageFormat::bf16},
    {"release", StorageFormat::release},
    {"base", StorageFormat::base}};

}  // namespace ds4::cli
