// The definition of correct, and the fallback: plain loops, in the order that every other kernel set must reproduce.

#include <bit>
#include <cmath>
#include <numeric>

#include "base/float_bits.h"
#include "kernels/generic/record.h"
#include "kernels/kernels.h"
#include "kernels/scalar/lanes.h"

namespace gptbigcode {
namespace {

void linear_int8(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  const int64_t blocks = (task.k + kBlock - 1) / kBlock;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (int64_t m = 0; m < task.m; ++m) {
      f32x16 sum = initial<f32x16>(task, tile);
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
      f32x16 sum = f32x16::set1(0.0f);
      for (int64_t b = 0; b < blocks; ++b) {
        const std::byte* block = weights + static_cast<size_t>(b) * block_bytes;
        const ActivationBlock& a = task.activations[b * task.m + m];
        for (int r = 0; r < kTileRows; ++r) {
          sum.lane[r] = std::fma(static_cast<float>(dot(block, r, a.q)), a.scale, sum.lane[r]);
        }
      }
      put(task, m, tile,
          fma(sum, f32x16::load(reinterpret_cast<const float*>(weights + tile_bytes - kRowScaleBytes)),
              initial<f32x16>(task, tile)));
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

struct i32x16 {
  int32_t lane[16];
};

// The integer products of attention.
struct Products {
  using Floats = f32x16;
  using Integers = i32x16;
  struct Quad {
    int16_t code[4];
  };
  static constexpr int kRowsAtOnce = 1, kDotRows = 1, kDotTiles = 1;

  static Quad quad_of(const int8_t* codes) { return {codes[0], codes[1], codes[2], codes[3]}; }
  static void store_quads(Quad* quads, const f32x16& magic) {
    for (int i = 0; i < 16; ++i) quads[i / 4].code[i % 4] = static_cast<int16_t>(std::bit_cast<uint32_t>(magic.lane[i]) & 0xffu);
  }
  static Integers set1_i32(int32_t x) {
    Integers v{};
    for (int& lane : v.lane) lane = x;
    return v;
  }
  static f32x16 to_float(const Integers& v) {
    return lanes([&](int i) { return static_cast<float>(v.lane[i]); });
  }

  template <class Code, int kRows>
  static void dot_codes(const std::byte* tile, const Quad* quads, int64_t stride, int64_t count, Integers* sum) {
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
  static void dot_keys(const std::byte* tile, int64_t /*tile_stride*/, const Quad* quads, int64_t stride, int64_t count,
                       int64_t /*ahead*/, Integers* sum) {
    static_assert(kTiles == 1);
    dot_codes<uint8_t, kRows>(tile, quads, stride, count, sum);
  }
  template <int kRows, int kTiles>
  static void dot_values(const std::byte* tile, int64_t /*tile_stride*/, const Quad* quads, int64_t stride, int64_t count,
                         int64_t /*ahead*/, Integers* sum) {
    static_assert(kTiles == 1);
    dot_codes<int8_t, kRows>(tile, quads, stride, count, sum);
  }
};

struct Scalar {
  using Floats = f32x16;
  using SamplingFloats = Float4;
  static constexpr int kFloatRowsAtOnce = 1;
  static constexpr LinearKernel linear_int8 = gptbigcode::linear_int8, linear_int6 = gptbigcode::linear_int6,
                                linear_int4 = gptbigcode::linear_int4;
  static constexpr AttentionKernel attention_int8 = attention<Int8Kv<Products>>;

  static int32_t sum_codes(const int8_t* q, int32_t* /*starts*/) { return std::accumulate(q, q + kBlock, 0); }

  static int64_t int8_peak(int64_t rounds) {
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
};

}  // namespace

const Kernels kScalarKernels = kernel_set<Scalar>("scalar", 0);

}  // namespace gptbigcode
