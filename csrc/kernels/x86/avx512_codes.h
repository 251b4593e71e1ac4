// Integer dot products of one tile block by vpdpbusd.
#pragma once

#include "kernels/generic/lanes.h"
#include "kernels/x86/avx512_intrinsics.h"
#include "kernels/x86/avx512_lanes.h"

namespace gptbigcode {
namespace {

using i32x16 = __m512i;

inline __m512i load_i8x64(const std::byte* p) { return _mm512_loadu_si512(p); }
// For codes that are used twice. GCC would load them twice, and most loads of packed codes cross a cache line.
inline __m512i load_once(const std::byte* p) { return in_register(load_i8x64(p)); }

inline __m512i broadcast_i32(const void* p) {
  int32_t value;
  __builtin_memcpy(&value, p, 4);
  return _mm512_set1_epi32(value);
}

// The same field of the activations that come r rows later. It lies at a constant distance, so one register addresses all rows.
template <class T>
inline const T* of_row(const T* p, int64_t r) {
  return reinterpret_cast<const T*>(reinterpret_cast<const std::byte*>(p) + static_cast<size_t>(r) * sizeof(ActivationBlock));
}

// Multiplies bytes [quads][16 rows][4] of adjacent tiles with the activations from column k on. Prefetches as many bytes at ahead,
// if that is not null. It does so a little at a time, because all at once would hold up the loads that follow.
template <int kRows, int kTiles>
inline void add_bytes(const std::byte* codes, size_t tile_bytes, const std::byte* ahead, int quads,
                      const ActivationBlock* activations, int k, i32x16 (*sum)[kTiles]) {
  const int8_t* q = activations->q + k;
#pragma GCC unroll 1
  for (int quad = 0; quad < quads; quad += 4, q += 16, codes += 256) {
    q = in_register(q);
    codes = in_register(codes);
    if (ahead != nullptr) {
      prefetch(ahead, 256);
      ahead += 256;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __m512i w_u8x64[kTiles];
      for (int t = 0; t < kTiles; ++t) w_u8x64[t] = load_i8x64(codes + static_cast<size_t>(t) * tile_bytes + i * 64);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kTiles == 1) {
          sum[r][0] = dpbusd_broadcast(sum[r][0], w_u8x64[0], of_row(q, r) + i * 4);
        } else {
          const __m512i a = broadcast_i32(of_row(q, r) + i * 4);
          for (int t = 0; t < kTiles; ++t) sum[r][t] = dpbusd(sum[r][t], w_u8x64[t], a);
        }
      }
    }
  }
}
template <int kRows, int kTiles, unsigned kLogZero>
inline void start_at(const ActivationBlock* activations, i32x16 (*sum)[kTiles]) {
  for (int r = 0; r < kRows; ++r) {
    const __m512i start = _mm512_slli_epi32(in_register(broadcast_i32(&activations[r].negative_sum)), kLogZero);
    for (int t = 0; t < kTiles; ++t) sum[r][t] = start;
  }
}

// codebook + zero, for vpshufb
inline __m512i codebook_i8x64(int zero) {
  alignas(16) int8_t table[16];
  for (int i = 0; i < 16; ++i) table[i] = static_cast<int8_t>(kInt4Codebook[i] + zero);
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}
// Quads j and j + 2 of a group
inline void load_quad_pair(const std::byte* group, int j, __m512i codebook, __m512i w[2]) {
  const __m512i mask = _mm512_set1_epi8(15), packed = load_once(group + j * 64);
  w[0] = _mm512_shuffle_epi8(codebook, _mm512_and_si512(packed, mask));
  w[1] = _mm512_shuffle_epi8(codebook, _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask));
}
// A byte per row, with its sign.
inline __m512i load_row_bytes(const std::byte* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline f32x16 to_float(i32x16 v) { return {_mm512_cvtepi32_ps(v)}; }
inline f32x16 int4_multiplier(__m512i row_bytes) { return to_float(_mm512_srai_epi32(row_bytes, 2)); }

struct Expanded {
  alignas(64) std::byte codes[kTileRows * kBlock];  // [32 quads][16 rows][4]
  union {
    alignas(64) float factors[kTileRows];  // of int4
    alignas(64) int32_t int6_multipliers[kBlock / kInt6Group][kTileRows];
  };
};
// sums[r][t] += dot products times the scales of the activations
template <int kRows, int kTiles>
inline void add_scaled(const i32x16 (*dots)[kTiles], const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTiles; ++t) sums[r][t] = fma(to_float(dots[r][t]), f32x16::set1(activations[r].scale), sums[r][t]);
  }
}

inline const std::byte* codes_of(const Expanded* first) { return reinterpret_cast<const std::byte*>(first); }

struct Int4 {
  static constexpr size_t kBlockBytes = kInt4BlockBytes;

  template <int kRows>
  static void add(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, f32x16 (*sums)[1]) {
    const __m512i codebook = codebook_i8x64(kInt4Zero), row_bytes = load_row_bytes(block + kTileRows * kBlock / 2);
    // zero - offset, with a high half of zero: what minus the sum of the activations is multiplied with
    const __m512i zero =
        _mm512_sub_epi32(_mm512_set1_epi32(kInt4Zero - kInt4MinOffset), _mm512_and_si512(row_bytes, _mm512_set1_epi32(3)));
    constexpr int kChains = kRows <= 4 ? 2 : 1;  // of a row: together enough to hide the latency
    __m512i chains[kRows][kChains];
    for (int r = 0; r < kRows; ++r) {
      for (auto& chain : chains[r]) chain = _mm512_setzero_si512();
      chains[r][0] = _mm512_madd_epi16(broadcast_i32(&activations[r].negative_sum), zero);
    }
    const int8_t* q = activations->q;
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; ++g, block += 128, q += kGroup, ahead += 128) {
      q = in_register(q);
      prefetch(ahead, 128);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        __m512i w[2];
        load_quad_pair(block, j, codebook, w);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            __m512i& chain = chains[r][i % kChains];
            chain = dpbusd_broadcast(chain, w[i], of_row(q, r) + j * 4 + i * 8);
          }
        }
      }
    }
    const f32x16 multiplier = int4_multiplier(row_bytes);
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kChains > 1) chains[r][0] = _mm512_add_epi32(chains[r][0], chains[r][1]);
      sums[r][0] = fma(mul(to_float(chains[r][0]), multiplier), f32x16::set1(activations[r].scale), sums[r][0]);
    }
  }

  // Codes become codebook + offset + zero. Prefetches the block at ahead, if that is not null.
  template <int kZero = kInt4Zero>
  static void expand(const std::byte* block, Expanded& out, const std::byte* ahead = nullptr) {
    const __m512i codebook = codebook_i8x64(kZero), row_bytes = load_row_bytes(block + kTileRows * kBlock / 2);
    // the offset in all four bytes of a lane
    const __m512i four_times = _mm512_mullo_epi32(_mm512_and_si512(row_bytes, _mm512_set1_epi32(3)), _mm512_set1_epi32(0x01010101));
    const __m512i offsets = _mm512_add_epi8(four_times, _mm512_set1_epi8(kInt4MinOffset));
    for (int g = 0; g < kBlock / kGroup; ++g) {
      if (ahead != nullptr) prefetch(ahead + g * 128, 128);
      for (int j = 0; j < 2; ++j) {
        __m512i w[2];
        load_quad_pair(block + g * 128, j, codebook, w);
        _mm512_store_si512(out.codes + g * 256 + j * 64, _mm512_add_epi8(w[0], offsets));
        _mm512_store_si512(out.codes + g * 256 + j * 64 + 128, _mm512_add_epi8(w[1], offsets));
      }
    }
    store(out.factors, int4_multiplier(row_bytes));
  }

  template <int kRows, int kTiles>
  static void add_expanded(const Expanded* blocks, const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
    i32x16 dots[kRows][kTiles];
    start_at<kRows, kTiles, 4>(activations, dots);
    add_bytes<kRows, kTiles>(codes_of(blocks), sizeof(Expanded), nullptr, kBlock / 4, activations, 0, dots);
    for (int t = 0; t < kTiles; ++t) {
      const f32x16 multiplier = f32x16::load(blocks[t].factors);
      for (int r = 0; r < kRows; ++r) {
        sums[r][t] = fma(mul(to_float(dots[r][t]), multiplier), f32x16::set1(activations[r].scale), sums[r][t]);
      }
    }
  }
};

// Quads j and j + 2 of sixteen columns, code + zero
inline void combine_int6(__m512i nibbles, __m512i high, int j, __m512i w[2]) {
  const __m512i mask = _mm512_set1_epi8(15), high_mask = _mm512_set1_epi8(0x30);
  const __m512i high_first = _mm512_and_si512(_mm512_slli_epi16(high, static_cast<unsigned>(4 - 2 * j)), high_mask);
  const __m512i high_second = _mm512_and_si512(_mm512_srli_epi16(high, static_cast<unsigned>(2 * j)), high_mask);
  w[0] = _mm512_or_si512(_mm512_and_si512(nibbles, mask), high_first);
  w[1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(nibbles, 4), mask), high_second);
}
inline void load_int6_pair(const std::byte* block, int g, int j, __m512i w[2]) {
  combine_int6(load_once(block + g * 128 + j * 64), load_once(block + kTileRows * kBlock / 2 + g * 64), j, w);
}

struct Int6 {
  static constexpr size_t kBlockBytes = kInt6BlockBytes;

  // For each group of 32 columns of the block: add(g, dot) adds dot products to dot, which are multiplied with factors(g, t). g
  // counts sixteen columns each.
  template <int kRows, int kTiles, class Factors, class Add>
  static void add_groups(const ActivationBlock* activations, Factors factors, Add add, f32x16 (*sums)[kTiles]) {
    i32x16 sum[kRows][kTiles];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) sum[r][t] = _mm512_setzero_si512();
    }
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; g += 2) {
      i32x16 dot[kRows][kTiles];
      const int32_t* start = in_register(activations->starts + g / 2);
      for (int r = 0; r < kRows; ++r) {
        for (int t = 0; t < kTiles; ++t) dot[r][t] = broadcast_i32(of_row(start, r));
      }
      add(g, dot);
      for (int t = 0; t < kTiles; ++t) {
        const __m512i multipliers = factors(g, t);
        for (int r = 0; r < kRows; ++r) sum[r][t] = _mm512_add_epi32(sum[r][t], _mm512_mullo_epi32(dot[r][t], multipliers));
      }
    }
    add_scaled<kRows, kTiles>(sum, activations, sums);
  }

  template <int kRows>
  static void add(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, f32x16 (*sums)[1]) {
    const auto add = [&](int first, i32x16(*dot)[1]) {
      constexpr size_t kPart = kBlockBytes * kInt6Group / kBlock;
      prefetch(ahead + static_cast<size_t>(first) * kGroup / kInt6Group * kPart, kPart);
      const int8_t* q = in_register(activations->q + first * kGroup);
      const std::byte* low = in_register(block + first * 128);
      const std::byte* high = in_register(block + kTileRows * kBlock / 2 + first * 64);
#pragma GCC unroll 2
      for (int g = 0; g < 2; ++g) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          __m512i w[2];
          combine_int6(load_once(low + g * 128 + j * 64), load_once(high + g * 64), j, w);
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
              dot[r][0] = dpbusd_broadcast(dot[r][0], w[i], of_row(q, r) + g * kGroup + j * 4 + i * 8);
            }
          }
        }
      }
    };
    const auto factors = [&](int g, int) { return load_row_bytes(block + kInt6Multipliers + g / 2 * kTileRows); };
    add_groups<kRows, 1>(activations, factors, add, sums);
  }

  static void expand(const std::byte* block, Expanded& out) {
    for (int g = 0; g < kBlock / kGroup; ++g) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        __m512i w[2];
        load_int6_pair(block, g, j, w);
        _mm512_store_si512(out.codes + g * 256 + j * 64, w[0]);
        _mm512_store_si512(out.codes + g * 256 + j * 64 + 128, w[1]);
      }
      if (g % 2 == 0) _mm512_store_si512(out.int6_multipliers[g / 2], load_row_bytes(block + kInt6Multipliers + g / 2 * kTileRows));
    }
  }

  template <int kRows, int kTiles>
  static void add_expanded(const Expanded* blocks, const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
    const auto add = [&](int g, i32x16(*dot)[kTiles]) {
      add_bytes<kRows, kTiles>(codes_of(blocks) + g * 256, sizeof(Expanded), nullptr, kInt6Group / 4, activations, g * kGroup, dot);
    };
    const auto factors = [&](int g, int t) { return _mm512_load_si512(blocks[t].int6_multipliers[g / 2]); };
    add_groups<kRows, kTiles>(activations, factors, add, sums);
  }
};

// starts: for each 32 columns, -kInt6Zero times their sum.
inline int32_t sum_codes(const int8_t* q, int32_t* starts) {
  alignas(64) int32_t quads[kBlock / 4];
  for (int i = 0; i < kBlock / 64; ++i) {
    const __m512i codes = _mm512_loadu_si512(q + i * 64);
    _mm512_store_si512(quads + i * 16, dpbusd(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes));
  }
  int32_t total = 0;
  for (int g = 0; g < kBlock / kInt6Group; ++g) {
    int32_t sum = 0;
    for (int i = 0; i < kInt6Group / 4; ++i) sum += quads[g * (kInt6Group / 4) + i];
    starts[g] = -kInt6Zero * sum;
    total += sum;
  }
  return total;
}

// Products with int8, and the sizes of the loops that suit registers of 512 bits.
struct ProductsOf512 {
  using Floats = f32x16;
  using Integers = i32x16;
  using Expanded = gptbigcode::Expanded;
  // Thirty-two registers: 6 rows x 2 tiles of sums and of a group's sums, 2 weights.
  static constexpr int kRowsAtOnce = 6, kTilesAtOnce = 2, kStreamedRows = 16, kManyStreamsRows = 8;
  static constexpr int kUnpackingPasses = 2;
  static constexpr size_t kPrefetch = 8192;  // some pages: past one the hardware prefetcher starts anew

  static f32x16 to_float(i32x16 v) { return gptbigcode::to_float(v); }

  // sum[r][t] = integer sums of the 16 rows of tile t against row r of the activations
  template <int kRows, int kTiles>
  static void dot_int8(const std::byte* block, size_t tile_bytes, const std::byte* ahead, const ActivationBlock* activations,
                       i32x16 (*sum)[kTiles]) {
    start_at<kRows, kTiles, 7>(activations, sum);
    add_bytes<kRows, kTiles>(block, tile_bytes, ahead, kBlock / 4, activations, 0, sum);
  }
};

}  // namespace
}  // namespace gptbigcode
