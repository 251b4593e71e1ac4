// The definition of correct, and the fallback: plain loops, in the order that every other kernel set must reproduce.

#include <bit>
#include <cmath>

#include "base/float_bits.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

struct f32x16 {
  float lane[16];
};

template <class Function>
inline f32x16 lanes(Function function) {
  f32x16 v{};
  for (int i = 0; i < 16; ++i) v.lane[i] = function(i);
  return v;
}

inline f32x16 load(const float* p) {
  return lanes([&](int i) { return p[i]; });
}
inline f32x16 load_bf16(const uint16_t* p) {
  return lanes([&](int i) { return from_bfloat16(p[i]); });
}
inline f32x16 set1(float x) {
  return lanes([&](int) { return x; });
}
inline void store(float* p, const f32x16& v) {
  for (int i = 0; i < 16; ++i) p[i] = v.lane[i];
}
inline f32x16 add(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline f32x16 sub(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline f32x16 mul(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline f32x16 div(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline f32x16 max(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline f32x16 min(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline f32x16 fma(const f32x16& a, const f32x16& b, const f32x16& c) {
  return lanes([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
inline f32x16 select_less(const f32x16& a, const f32x16& b, const f32x16& x, const f32x16& y) {
  return lanes([&](int i) { return a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i]; });
}
inline f32x16 pow2_of_magic(const f32x16& t) {
  return lanes([&](int i) { return std::bit_cast<float>((std::bit_cast<uint32_t>(t.lane[i]) + 127u) << 23); });
}

#include "kernels/vector_kernels.inc"

inline float scale_of(const std::byte* scales, int r) {
  const auto* p = reinterpret_cast<const uint16_t*>(scales);
  return from_bfloat16(p[r]);
}

// Calls block_sum(tile block, activation block, row) for the integer sum of every block, and adds it up in float.
template <size_t kTileBytes, class BlockSum>
void linear_quantized(const LinearTask& task, int64_t tile_begin, int64_t tile_end, BlockSum block_sum) {
  const int64_t blocks = (task.k + kBlock - 1) / kBlock;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (int64_t m = 0; m < task.m; ++m) {
      f32x16 sum = initial(task, tile);
      for (int64_t b = 0; b < blocks; ++b) {
        const std::byte* weights = task.weights + static_cast<size_t>(tile * blocks + b) * kTileBytes;
        const ActivationBlock& a = task.activations[b * task.m + m];
        for (int r = 0; r < kTileRows; ++r) {
          const float scale = scale_of(weights + kTileBytes - 2 * kTileRows, r) * a.scale;
          sum.lane[r] = std::fma(static_cast<float>(block_sum(weights, a, r)), scale, sum.lane[r]);
        }
      }
      put(task, m, tile, sum);
    }
  }
}

void linear_int8(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  linear_quantized<kInt8TileBytes>(task, tile_begin, tile_end, [](const std::byte* weights, const ActivationBlock& a, int r) {
    int32_t sum = 0;
    for (int k = 0; k < kBlock; ++k) {
      const int code = std::to_integer<int>(weights[k / 4 * 64 + r * 4 + k % 4]) - 128;
      sum += code * a.q[k];
    }
    return sum;
  });
}

void linear_int4(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  linear_quantized<kInt4TileBytes>(task, tile_begin, tile_end, [](const std::byte* weights, const ActivationBlock& a, int r) {
    const auto* multipliers = reinterpret_cast<const int8_t*>(weights + kTileRows * kBlock / 2);
    int32_t sum = 0;
    for (int g = 0; g < kBlock / kGroup; ++g) {
      int32_t group = 0;
      for (int i = 0; i < kGroup / 2; ++i) {  // low nibbles: first half of the group; high nibbles: second half
        const int byte = std::to_integer<int>(weights[g * 256 + i / 4 * 64 + r * 4 + i % 4]);
        group += ((byte & 15) - 8) * a.q[g * kGroup + i];
        group += ((byte >> 4) - 8) * a.q[g * kGroup + 16 + i];
      }
      sum += multipliers[g * kTileRows + r] * group;
    }
    return sum;
  });
}

int64_t int8_peak(int64_t rounds) {
  constexpr int kChains = 16;
  int32_t sum[kChains] = {};
  int8_t a[kChains] = {};
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+m"(a));  // not known to be what it was
    for (int i = 0; i < kChains; ++i) sum[i] += a[i] * a[i];
  }
  asm volatile("" : : "m"(sum));
  return rounds * kChains;
}

}  // namespace

const Kernels kScalarKernels = {
    .name = "scalar",
    .required = 0,
    .linear_float32 = linear_float<float>,
    .linear_bfloat16 = linear_float<uint16_t>,
    .linear_int8 = linear_int8,
    .linear_int4 = linear_int4,
    .quantize = quantize,
    .layer_norm = layer_norm,
    .activate = activate,
    .attention = attention,
    .int8_peak = int8_peak,
};

}  // namespace gptbigcode
