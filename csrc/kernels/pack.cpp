#include "kernels/pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

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

// x[128] -> codes -127..127 and a scale per block: absolute maximum to 127. Rounding the scale to bfloat16 changes it by at most
// one part in 512, so the maximum is still within 127.25 steps.
void quantize_int8(const float* x, int8_t* q, uint16_t* scale) {
  float amax = 0.0f;
  for (int i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(x[i]));
  *scale = amax > 1e-30f ? to_bfloat16(amax / 127.0f) : uint16_t{0};
  const float s = from_bfloat16(*scale), inverse = s > 0.0f ? 1.0f / s : 0.0f;
  for (int i = 0; i < kBlock; ++i) q[i] = static_cast<int8_t>(std::clamp(round_even(x[i] * inverse), -127.0f, 127.0f));
}

// Weighted squared error of a group coded with scale s, and the scale that would have been best for the same codes.
struct Fit {
  float error, scale;
};
Fit fit(const float* x, const float* w, float s) {
  constexpr int kLanes = 8;  // independent sums, for the compiler to vectorise
  const float inverse = 1.0f / s;
  float xc[kLanes] = {}, cc[kLanes] = {};
  for (int i = 0; i < kGroup; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const float c = std::min(std::max(round_even(x[i + j] * inverse), -8.0f), 7.0f);
      xc[j] += w[i + j] * x[i + j] * c;
      cc[j] += w[i + j] * c * c;
    }
  }
  float xc_sum = 0.0f, cc_sum = 0.0f;
  for (int j = 0; j < kLanes; ++j) {
    xc_sum += xc[j];
    cc_sum += cc[j];
  }
  if (!(cc_sum > 0.0f)) return {0.0f, 0.0f};
  return {-xc_sum * xc_sum / cc_sum, xc_sum / cc_sum};  // the error less sum of w x^2, after a least-squares refit of the scale
}

// The scale of a group of 32, of either sign: the element of largest magnitude goes to -5.5 .. -9.25, the best of 16 is kept.
// Large weights matter most to the model's output, so errors are weighted with x^2 + mean(x^2) (docs/quantization.md).
float search_scale(const float* source) {
  float extreme = 0.0f;
  for (int i = 0; i < kGroup; ++i) {
    if (std::fabs(source[i]) > std::fabs(extreme)) extreme = source[i];
  }
  if (std::fabs(extreme) < 1e-30f) return 0.0f;
  float x[kGroup], w[kGroup], mean = 0.0f;  // relative to the extreme, so that squares neither overflow nor vanish
  for (int i = 0; i < kGroup; ++i) {
    x[i] = source[i] / extreme;
    w[i] = x[i] * x[i];
    mean += w[i] / kGroup;
  }
  for (float& weight : w) weight += mean;
  Fit best{0.0f, 0.0f};
  for (int step = 0; step < 16; ++step) {
    const Fit candidate = fit(x, w, 1.0f / (-5.5f - 0.25f * static_cast<float>(step)));
    if (candidate.error < best.error) best = candidate;
  }
  return best.scale * extreme;
}

// x[128] -> codes -8..7, four multipliers -127..127, one scale.
void quantize_int4(const float* x, int8_t* q, int8_t* multipliers, uint16_t* scale) {
  float scales[kBlock / kGroup], largest = 0.0f;
  for (int g = 0; g < kBlock / kGroup; ++g) {
    scales[g] = search_scale(x + g * kGroup);
    largest = std::max(largest, std::fabs(scales[g]));
  }
  *scale = largest > 0.0f ? to_bfloat16(largest / 127.0f) : uint16_t{0};
  const float s = from_bfloat16(*scale);
  for (int g = 0; g < kBlock / kGroup; ++g) {
    const float multiplier = s > 0.0f ? std::clamp(round_even(scales[g] / s), -127.0f, 127.0f) : 0.0f;
    multipliers[g] = static_cast<int8_t>(multiplier);
    const float step = s * multiplier, inverse = step != 0.0f ? 1.0f / step : 0.0f;
    for (int i = g * kGroup; i < (g + 1) * kGroup; ++i) {
      q[i] = static_cast<int8_t>(std::clamp(round_even(x[i] * inverse), -8.0f, 7.0f));
    }
  }
}

// Sixteen rows, [16][k padded to whole blocks], zeros where the matrix ends.
void pack_tile(const PackTask& task, const float* rows, int64_t padded_k, std::byte* out) {
  const int64_t k = task.k;
  switch (task.dtype) {
    case DType::kFloat32: {
      auto* p = reinterpret_cast<float*>(out);
      for (int64_t i = 0; i < k; ++i) {
        for (int r = 0; r < kTileRows; ++r) p[i * kTileRows + r] = rows[r * padded_k + i];
      }
      return;
    }
    case DType::kBFloat16: {
      auto* p = reinterpret_cast<uint16_t*>(out);
      for (int64_t i = 0; i < k; ++i) {
        for (int r = 0; r < kTileRows; ++r) p[i * kTileRows + r] = to_bfloat16(rows[r * padded_k + i]);
      }
      return;
    }
    case DType::kInt8:
      for (int64_t begin = 0; begin < padded_k; begin += kBlock, out += kInt8TileBytes) {
        for (int r = 0; r < kTileRows; ++r) {
          int8_t q[kBlock];
          uint16_t scale;
          quantize_int8(rows + r * padded_k + begin, q, &scale);
          for (int i = 0; i < kBlock; ++i) out[i / 4 * 64 + r * 4 + i % 4] = static_cast<std::byte>(q[i] + 128);
          std::memcpy(out + kTileRows * kBlock + r * 2, &scale, 2);
        }
      }
      return;
    case DType::kInt4:
      for (int64_t begin = 0; begin < padded_k; begin += kBlock, out += kInt4TileBytes) {
        for (int r = 0; r < kTileRows; ++r) {
          int8_t q[kBlock], multipliers[kBlock / kGroup];
          uint16_t scale;
          quantize_int4(rows + r * padded_k + begin, q, multipliers, &scale);
          for (int g = 0; g < kBlock / kGroup; ++g) {
            for (int i = 0; i < kGroup / 2; ++i) {
              const int low = q[g * kGroup + i] + 8, high = q[g * kGroup + 16 + i] + 8;
              out[g * 256 + i / 4 * 64 + r * 4 + i % 4] = static_cast<std::byte>(low | high << 4);
            }
            std::memcpy(out + kTileRows * kBlock / 2 + g * kTileRows + r, &multipliers[g], 1);
          }
          std::memcpy(out + kInt4TileBytes - 2 * kTileRows + r * 2, &scale, 2);
        }
      }
      return;
  }
}

}  // namespace

DType parse_dtype(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "int8") return DType::kInt8;
  if (name == "int4") return DType::kInt4;
  throw std::invalid_argument("unknown dtype '" + name + "'; known: float32, bfloat16, int8, int4");
}

std::vector<int64_t> tile_shape(DType dtype, int64_t n, int64_t k) {
  const int64_t tiles = (n + kTileRows - 1) / kTileRows, blocks = (k + kBlock - 1) / kBlock;
  switch (dtype) {
    case DType::kInt8: return {tiles, blocks, static_cast<int64_t>(kInt8TileBytes)};
    case DType::kInt4: return {tiles, blocks, static_cast<int64_t>(kInt4TileBytes)};
    default: return {tiles, k, kTileRows};
  }
}

int64_t tile_bytes(DType dtype, int64_t k) {
  const std::vector<int64_t> shape = tile_shape(dtype, kTileRows, k);
  const int64_t item = dtype == DType::kFloat32 ? 4 : dtype == DType::kBFloat16 ? 2 : 1;
  return shape[1] * shape[2] * item;
}

void pack(const PackTask& task, ThreadPool& pool) {
  const int64_t tiles = (task.n + kTileRows - 1) / kTileRows, padded_k = (task.k + kBlock - 1) / kBlock * kBlock;
  const int64_t bytes = tile_bytes(task.dtype, task.k);
  std::vector<std::vector<float>> scratch(static_cast<size_t>(pool.size()));
  for (auto& rows : scratch) rows.resize(static_cast<size_t>(kTileRows * padded_k));
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> next{0}, bad{kNone};  // bad: the first element that is not finite
  pool.run([&](int thread) {
    float* rows = scratch[static_cast<size_t>(thread)].data();
    for (int64_t tile = next.fetch_add(1); tile < tiles; tile = next.fetch_add(1)) {
      std::fill_n(rows, kTileRows * padded_k, 0.0f);
      const int64_t count = std::min<int64_t>(kTileRows, task.n - tile * kTileRows);
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t i = 0; i < task.k; ++i) {
          const int64_t index = (tile * kTileRows + r) * task.k + i;
          const float value = read_source(task, index);
          rows[r * padded_k + i] = value;
          if (!std::isfinite(value)) {
            int64_t seen = bad.load();
            while (index < seen && !bad.compare_exchange_weak(seen, index)) {
            }
          }
        }
      }
      if (bad.load(std::memory_order_relaxed) == kNone) pack_tile(task, rows, padded_k, task.out + tile * bytes);
    }
  });
  if (bad != kNone) {
    const int64_t index = bad;
    throw std::invalid_argument(std::string(std::isnan(read_source(task, index)) ? "NaN" : "infinite") + " element at row " +
                                std::to_string(index / task.k) + ", column " + std::to_string(index % task.k));
  }
}

void unpack_row(const std::byte* packed, DType dtype, int64_t row, int64_t k, float* out) {
  const std::byte* tile = packed + row / kTileRows * tile_bytes(dtype, k);
  const auto r = static_cast<size_t>(row % kTileRows);
  for (int64_t i = 0; i < k; ++i) {
    const auto in_block = static_cast<size_t>(i % kBlock);
    switch (dtype) {
      case DType::kFloat32: std::memcpy(out + i, tile + (static_cast<size_t>(i) * kTileRows + r) * 4, 4); break;
      case DType::kBFloat16: {
        uint16_t bits;
        std::memcpy(&bits, tile + (static_cast<size_t>(i) * kTileRows + r) * 2, 2);
        out[i] = from_bfloat16(bits);
        break;
      }
      case DType::kInt8: {
        const std::byte* block = tile + static_cast<size_t>(i / kBlock) * kInt8TileBytes;
        uint16_t scale;
        std::memcpy(&scale, block + kTileRows * kBlock + r * 2, 2);
        const int q = std::to_integer<int>(block[in_block / 4 * 64 + r * 4 + in_block % 4]) - 128;
        out[i] = from_bfloat16(scale) * static_cast<float>(q);
        break;
      }
      case DType::kInt4: {
        const std::byte* block = tile + static_cast<size_t>(i / kBlock) * kInt4TileBytes;
        const size_t g = in_block / kGroup, j = in_block % 16;
        const int byte = std::to_integer<int>(block[g * 256 + j / 4 * 64 + r * 4 + j % 4]);
        const int c = (in_block % kGroup < 16 ? byte & 15 : byte >> 4) - 8;
        uint16_t scale;
        std::memcpy(&scale, block + kInt4TileBytes - 2 * kTileRows + r * 2, 2);
        int8_t multiplier;
        std::memcpy(&multiplier, block + kTileRows * kBlock / 2 + g * kTileRows + r, 1);
        out[i] = from_bfloat16(scale) * static_cast<float>(multiplier * c);
        break;
      }
    }
  }
}

}  // namespace gptbigcode
