// The definition of correct, and the fallback: plain loops, in the order that every other kernel set must reproduce.

#include <bit>
#include <cmath>
#include <numeric>

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
inline f32x16 load_f16(const uint16_t* p) {
  return lanes([&](int i) { return from_float16(p[i]); });
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
inline f32x16 half_pow2(const f32x16& t) {
  return lanes([&](int i) { return std::bit_cast<float>(std::bit_cast<uint32_t>(t.lane[i]) << 23); });
}
inline f32x16 magnitude(const f32x16& a) {
  return lanes([&](int i) { return std::bit_cast<float>(std::bit_cast<uint32_t>(a.lane[i]) & 0x7fffffffu); });
}
inline float max_or_nan(float a, float b) { return std::bit_cast<uint32_t>(a) > std::bit_cast<uint32_t>(b) ? a : b; }
inline f32x16 max_or_nan(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return max_or_nan(a.lane[i], b.lane[i]); });
}
template <class Fold>
inline float reduce(f32x16 v, Fold fold) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v.lane[i] = fold(v.lane[i], v.lane[i + half]);
  }
  return v.lane[0];
}
inline float reduce_add(const f32x16& v) {
  return reduce(v, [](float a, float b) { return a + b; });
}
inline float reduce_max(const f32x16& v) {
  return reduce(v, [](float a, float b) { return a > b ? a : b; });
}
inline float reduce_max_or_nan(const f32x16& v) {
  return reduce(v, [](float a, float b) { return max_or_nan(a, b); });
}

template <int kRows>
inline void reduce_max_of_rows(const f32x16* v, float* maxima) {
  for (int r = 0; r < kRows; ++r) maxima[r] = reduce_max(v[r]);
}
template <int kRows>
inline void reduce_max_or_nan_of_rows(const f32x16* v, float* maxima) {
  for (int r = 0; r < kRows; ++r) maxima[r] = reduce_max_or_nan(v[r]);
}

inline void store_codes(int8_t* q, f32x16 magic) {
  alignas(64) float lanes[16];
  store(lanes, magic);
  int32_t bits[16];  // the low byte is the code
  __builtin_memcpy(bits, lanes, sizeof(bits));
  for (int i = 0; i < 16; ++i) q[i] = static_cast<int8_t>(bits[i] << 24 >> 24);
}
inline int32_t sum_codes(const int8_t* q, int32_t* /*starts*/) { return std::accumulate(q, q + kBlock, 0); }

#include "kernels/generic/vector_kernels.h"

void linear_int8(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  const int64_t blocks = (task.k + kBlock - 1) / kBlock;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (int64_t m = 0; m < task.m; ++m) {
      f32x16 sum = initial(task, tile);
      for (int64_t b = 0; b < blocks; ++b) {
        const std::byte* block = task.weights + static_cast<size_t>(tile * blocks + b) * kInt8BlockBytes;
        const auto* scales = reinterpret_cast<const uint16_t*>(block + kTileRows * kBlock);
        const ActivationBlock& a = task.activations[b * task.m + m];
        for (int r = 0; r < kTileRows; ++r) {
          int32_t dot = 0;
          for (int k = 0; k < kBlock; ++k) dot += (std::to_integer<int>(block[k / 4 * 64 + r * 4 + k % 4]) - 128) * a.q[k];
          sum.lane[r] = std::fma(static_cast<float>(dot), from_bfloat16(scales[r]) * a.scale, sum.lane[r]);
        }
      }
      put(task, m, tile, sum);
    }
  }
}

// dot(block, row, activations): an integer
template <class Dot>
void linear_row_scaled(const LinearTask& task, int64_t tile_begin, int64_t tile_end, size_t block_bytes, Dot dot) {
  const int64_t blocks = (task.k + kBlock - 1) / kBlock;
  const size_t tile_bytes = static_cast<size_t>(blocks) * block_bytes + kRowScaleBytes;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const std::byte* weights = task.weights + static_cast<size_t>(tile) * tile_bytes;
    for (int64_t m = 0; m < task.m; ++m) {
      f32x16 sum = set1(0.0f);
      for (int64_t b = 0; b < blocks; ++b) {
        const std::byte* block = weights + static_cast<size_t>(b) * block_bytes;
        const ActivationBlock& a = task.activations[b * task.m + m];
        for (int r = 0; r < kTileRows; ++r) {
          sum.lane[r] = std::fma(static_cast<float>(dot(block, r, a.q)), a.scale, sum.lane[r]);
        }
      }
      put(task, m, tile,
          fma(sum, load(reinterpret_cast<const float*>(weights + tile_bytes - kRowScaleBytes)), initial(task, tile)));
    }
  }
}

void linear_int6(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  linear_row_scaled(task, tile_begin, tile_end, kInt6BlockBytes, [](const std::byte* block, int r, const int8_t* q) {
    int32_t dot = 0;
    for (int g = 0; g < kBlock / kInt6Group; ++g) {
      int32_t group = 0;
      for (int k = g * kInt6Group; k < (g + 1) * kInt6Group; ++k) group += int6_code(block, r, k) * q[k];
      dot += std::to_integer<int8_t>(block[kInt6Multipliers + static_cast<size_t>(g * kTileRows + r)]) * group;
    }
    return dot;
  });
}

void linear_int4(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  linear_row_scaled(task, tile_begin, tile_end, kInt4BlockBytes, [](const std::byte* block, int r, const int8_t* q) {
    const auto byte = std::to_integer<int8_t>(block[kTileRows * kBlock / 2 + r]);
    const int offset = (byte & 3) + kInt4MinOffset, multiplier = byte >> 2;
    int32_t dot = 0;
    for (int k = 0; k < kBlock; ++k) dot += (kInt4Codebook[nibble_of(block, r, k)] + offset) * q[k];
    return multiplier * dot;
  });
}

constexpr int kFloatRowsAtOnce = 1, kInt8RowsAtOnce = 1, kInt8DotRows = 1, kAttentionTiles = 1;

struct Quad {
  int16_t code[4];
};
inline Quad quad_of(const int8_t* codes) { return {codes[0], codes[1], codes[2], codes[3]}; }
inline void store_quads(Quad* quads, const f32x16& magic) {
  for (int i = 0; i < 16; ++i) quads[i / 4].code[i % 4] = static_cast<int16_t>(std::bit_cast<uint32_t>(magic.lane[i]) & 0xffu);
}

struct i32x16 {
  int32_t lane[16];
};
inline i32x16 set1_i32(int32_t x) {
  i32x16 v{};
  for (int& lane : v.lane) lane = x;
  return v;
}
inline f32x16 to_float(const i32x16& v) {
  return lanes([&](int i) { return static_cast<float>(v.lane[i]); });
}

template <class Code, int kRows>
inline void dot_codes(const std::byte* tile, const Quad* quads, int64_t stride, int64_t count, i32x16* sum) {
  const auto* codes = reinterpret_cast<const Code*>(tile);
  for (int r = 0; r < kRows; ++r) {
    for (int64_t i = 0; i < count; ++i) {
      for (int lane = 0; lane < 16; ++lane) {
        for (int j = 0; j < 4; ++j) sum[r].lane[lane] += codes[i * 64 + lane * 4 + j] * quads[r * stride + i].code[j];
      }
    }
  }
}
template <int kRows, int kTiles>
inline void dot_keys(const std::byte* tile, int64_t /*tile_stride*/, const Quad* quads, int64_t stride, int64_t count,
                     int64_t /*ahead*/, i32x16* sum) {
  static_assert(kTiles == 1);
  dot_codes<uint8_t, kRows>(tile, quads, stride, count, sum);
}
template <int kRows, int kTiles>
inline void dot_values(const std::byte* tile, int64_t /*tile_stride*/, const Quad* quads, int64_t stride, int64_t count,
                       int64_t /*ahead*/, i32x16* sum) {
  static_assert(kTiles == 1);
  dot_codes<int8_t, kRows>(tile, quads, stride, count, sum);
}

#include "kernels/generic/attention.h"

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

constexpr AttentionKernel attention_int8 = attention<Int8Kv>;

#include "kernels/generic/record.h"

}  // namespace

const Kernels kScalarKernels = kernel_set("scalar", 0);

}  // namespace gptbigcode
