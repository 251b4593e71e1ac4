#include "kernels/pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/float_bits.h"

namespace gptbigcode {
namespace {

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer

inline float round_even(float x) { return (x + kMagic) - kMagic; }

float read_source(const PackTask& task, int64_t index) {
  switch (task.source_type) {
    case SourceType::kFloat32: return static_cast<const float*>(task.source)[index];
    case SourceType::kFloat16: return from_float16(static_cast<const uint16_t*>(task.source)[index]);
    case SourceType::kBFloat16: return from_bfloat16(static_cast<const uint16_t*>(task.source)[index]);
  }
  return 0.0f;
}

// A row's block of 128, x[128][16] -> codes -127..127 and a scale: absolute maximum to 127. Rounding the scale to bfloat16 changes
// it by at most one part in 512, so the maximum is still within 127.25 steps.
void quantize_int8(const float* x, int8_t* q, uint16_t* scale) {
  float amax = 0.0f;
  for (int i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(x[i * kTileRows]));
  *scale = amax > 1e-30f ? to_bfloat16(amax / 127.0f) : uint16_t{0};
  const float s = from_bfloat16(*scale), inverse = s > 0.0f ? 1.0f / s : 0.0f;
  for (int i = 0; i < kBlock; ++i) {
    q[i] = static_cast<int8_t>(std::clamp(round_even(x[i * kTileRows] * inverse), -127.0f, 127.0f));
  }
}

// The largest magnitude that a weight may have: what is larger is infinite in bfloat16, or may be once it was rounded to steps.
float largest_weight(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return std::numeric_limits<float>::max();
    case DType::kBFloat16: return 0x1.fefffep127f;
    default: return 0x1p127f;
  }
}

bool has_row_scales(DType dtype) { return dtype == DType::kInt4 || dtype == DType::kInt6; }

// Sixteen rows, x: [k][16], for integer types padded with zeros to whole blocks.
void pack_tile(const PackTask& task, float* x, int64_t padded_k, float* scratch, std::byte* out) {
  const int64_t k = task.k;
  switch (task.dtype) {
    case DType::kFloat32: std::memcpy(out, x, static_cast<size_t>(k * kTileRows) * sizeof(float)); return;
    case DType::kBFloat16: {
      auto* p = reinterpret_cast<uint16_t*>(out);
      for (int64_t i = 0; i < k * kTileRows; ++i) p[i] = to_bfloat16(x[i]);
      return;
    }
    case DType::kInt8:
      for (int64_t begin = 0; begin < padded_k; begin += kBlock, out += kInt8BlockBytes) {
        for (int r = 0; r < kTileRows; ++r) {
          int8_t q[kBlock];
          uint16_t scale;
          quantize_int8(x + begin * kTileRows + r, q, &scale);
          for (int i = 0; i < kBlock; ++i) out[i / 4 * 64 + r * 4 + i % 4] = static_cast<std::byte>(q[i] + 128);
          std::memcpy(out + kTileRows * kBlock + r * 2, &scale, 2);
        }
      }
      return;
    case DType::kInt6: task.kernels->pack_int6(x, padded_k, task.feedback, scratch, out); return;
    case DType::kInt4: task.kernels->pack_int4(x, padded_k, task.feedback, scratch, out); return;
  }
}

}  // namespace

DType parse_dtype(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "int8") return DType::kInt8;
  if (name == "int6") return DType::kInt6;
  if (name == "int4") return DType::kInt4;
  throw std::invalid_argument("unknown dtype '" + name + "'; known: float32, bfloat16, int8, int6, int4");
}

std::vector<int64_t> tile_shape(DType dtype, int64_t n, int64_t k) {
  const int64_t tiles = (n + kTileRows - 1) / kTileRows, blocks = (k + kBlock - 1) / kBlock;
  switch (dtype) {
    case DType::kInt8: return {tiles, blocks, static_cast<int64_t>(kInt8BlockBytes)};
    case DType::kInt6: return {tiles, blocks * static_cast<int64_t>(kInt6BlockBytes) + static_cast<int64_t>(kRowScaleBytes)};
    case DType::kInt4: return {tiles, blocks * static_cast<int64_t>(kInt4BlockBytes) + static_cast<int64_t>(kRowScaleBytes)};
    default: return {tiles, k, kTileRows};
  }
}

int64_t tile_bytes(DType dtype, int64_t k) {
  const std::vector<int64_t> shape = tile_shape(dtype, kTileRows, k);
  const int64_t item = dtype == DType::kFloat32 ? 4 : dtype == DType::kBFloat16 ? 2 : 1;
  return std::accumulate(shape.begin() + 1, shape.end(), item, std::multiplies<>());
}

void pack(const PackTask& task, ThreadPool& pool) {
  const int64_t tiles = (task.n + kTileRows - 1) / kTileRows, padded_k = (task.k + kBlock - 1) / kBlock * kBlock;
  const int64_t bytes = tile_bytes(task.dtype, task.k);
  std::vector<AlignedBuffer<float>> buffers(static_cast<size_t>(pool.size()));  // a tile's weights, then scratch
  for (auto& buffer : buffers) buffer.reserve(static_cast<size_t>((kTileRows + 1) * padded_k));
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  const float largest = largest_weight(task.dtype);
  std::atomic<int64_t> next{0}, bad{kNone};  // bad: the first element that is not finite, or too large
  pool.run_items(pool.size(), [&](int64_t, int thread) {
    float* x = buffers[static_cast<size_t>(thread)].data();
    for (int64_t tile = next.fetch_add(1); tile < tiles; tile = next.fetch_add(1)) {
      std::fill_n(x, kTileRows * padded_k, 0.0f);
      const int64_t count = std::min<int64_t>(kTileRows, task.n - tile * kTileRows);
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t i = 0; i < task.k; ++i) {
          const int64_t index = (tile * kTileRows + r) * task.k + i;
          const float value = read_source(task, index);
          x[i * kTileRows + r] = value;
          if (!(std::fabs(value) <= largest)) {
            int64_t seen = bad.load();
            while (index < seen && !bad.compare_exchange_weak(seen, index)) {
            }
          }
        }
      }
      if (bad.load(std::memory_order_relaxed) == kNone) {
        pack_tile(task, x, padded_k, x + kTileRows * padded_k, task.out + tile * bytes);
      }
    }
  });
  if (bad != kNone) {
    const int64_t index = bad;
    const float value = read_source(task, index);
    throw std::invalid_argument(std::string(std::isnan(value)   ? "NaN"
                                            : std::isinf(value) ? "infinite"
                                                                : "too large an") +
                                " element at row " + std::to_string(index / task.k) + ", column " + std::to_string(index % task.k));
  }
}

void unpack_row(const std::byte* packed, DType dtype, int64_t row, int64_t k, float* out) {
  const int64_t bytes = tile_bytes(dtype, k);
  const std::byte* tile = packed + row / kTileRows * bytes;
  const auto r = static_cast<size_t>(row % kTileRows), columns = static_cast<size_t>(k);
  float row_scale = 0.0f;
  if (has_row_scales(dtype)) std::memcpy(&row_scale, tile + bytes - static_cast<int64_t>(kRowScaleBytes) + r * 4, 4);
  switch (dtype) {
    case DType::kFloat32:
      for (size_t i = 0; i < columns; ++i) std::memcpy(out + i, tile + (i * kTileRows + r) * 4, 4);
      return;
    case DType::kBFloat16:
      for (size_t i = 0; i < columns; ++i) {
        uint16_t bits;
        std::memcpy(&bits, tile + (i * kTileRows + r) * 2, 2);
        out[i] = from_bfloat16(bits);
      }
      return;
    case DType::kInt8:
      for (size_t i = 0; i < columns; ++i) {
        const std::byte* block = tile + i / kBlock * kInt8BlockBytes;
        uint16_t scale;
        std::memcpy(&scale, block + kTileRows * kBlock + r * 2, 2);
        const int q = std::to_integer<int>(block[i % kBlock / 4 * 64 + r * 4 + i % 4]) - 128;
        out[i] = from_bfloat16(scale) * static_cast<float>(q);
      }
      return;
    case DType::kInt6:
      for (size_t i = 0; i < columns; ++i) {
        const std::byte* block = tile + i / kBlock * kInt6BlockBytes;
        const auto multiplier = std::to_integer<int8_t>(block[kInt6Multipliers + i % kBlock / kInt6Group * kTileRows + r]);
        const int code = int6_code(block, static_cast<int>(r), static_cast<int>(i % kBlock));
        out[i] = row_scale * static_cast<float>(multiplier * code);
      }
      return;
    case DType::kInt4:
      for (size_t i = 0; i < columns; ++i) {
        const std::byte* block = tile + i / kBlock * kInt4BlockBytes;
        const auto byte = std::to_integer<int8_t>(block[kTileRows * kBlock / 2 + r]);
        const int8_t entry = kInt4Codebook[nibble_of(block, static_cast<int>(r), static_cast<int>(i % kBlock))];
        const int level = entry + (byte & 3) + kInt4MinOffset;
        out[i] = row_scale * static_cast<float>((byte >> 2) * level);
      }
      return;
  }
}

}  // namespace gptbigcode
