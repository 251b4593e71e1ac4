// Quantising and tiling weights (docs/format.md), and reading them back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace gptbigcode {

DType parse_dtype(const std::string& name);  // throws std::invalid_argument
std::vector<int64_t> tile_shape(DType dtype, int64_t n, int64_t k);
int64_t tile_bytes(DType dtype, int64_t k);  // of 16 rows x k

enum class SourceType { kFloat32, kFloat16, kBFloat16 };
struct PackTask {
  const void* source = nullptr;  // [n][k]
  SourceType source_type = SourceType::kFloat32;
  int64_t n = 0, k = 0;
  DType dtype = DType::kFloat32;
  const Kernels* kernels = nullptr;
  std::byte* out = nullptr;
  ErrorFeedback feedback;  // int4 and int6; its k is that of whole blocks
};
// Throws std::invalid_argument naming row and column of a NaN or an infinity.
void pack(const PackTask& task, ThreadPool& pool);

// One row as float, k values.
void unpack_row(const std::byte* packed, DType dtype, int64_t row, int64_t k, float* out);

}  // namespace gptbigcode
