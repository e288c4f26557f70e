// What the tensors of a checkpoint add up to.
#pragma once

#include <cstddef>
#include <utility>

#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/dtype.hpp>

namespace ds4::test {

/// Number and bytes of all tensors of a configuration, from their shapes as they are stored.
inline std::pair<std::size_t, std::size_t> totals(const ConfigValues& config,
                                                  StorageFormat format) {
  std::size_t tensors = 0;
  std::size_t bytes = 0;
  for (const TensorInfo& tensor : list_tensors(config)) {
    for (const TensorSpec& stored : stored_tensors(tensor, format)) {
      std::size_t size = dtype_size(stored.dtype);
      for (const std::size_t extent : stored.shape) size *= extent;
      ++tensors;
      bytes += size;
    }
  }
  return {tensors, bytes};
}

}  // namespace ds4::test
