// Packed codes in 256-bit registers.
#pragma once

#include <immintrin.h>

#include "kernels/generic/lanes.h"
#include "kernels/x86/avx2_lanes.h"

namespace gptbigcode {
namespace {

inline __m256i load_i8x32(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

inline __m256i broadcast_i32(const void* p) {
  int32_t value;
  __builtin_memcpy(&value, p, 4);
  return _mm256_set1_epi32(value);
}

struct i32x16 {
  __m256i lo, hi;
};

// Keeps GCC from computing addresses ahead of a loop, and from peeling and rotating it; both would take registers from the sums.
template <class T>
inline T* in_register(T* p) {
  asm("" : "+r"(p));
  return p;
}
// Calls f(quad, bytes into the activations' codes) for quads of four columns, four at a time.
template <class Function>
inline void for_quads(const std::byte* codes, int quads, const int8_t* q, Function function) {
#pragma GCC unroll 1
  for (int quad = 0; quad < quads; quad += 4, codes += 256, q += 16) {
    codes = in_register(codes);
    q = in_register(q);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) function(codes + i * 64, q + i * 4);
  }
}
// The same columns' codes, of the activations that come r rows later.
inline const int8_t* of_row(const int8_t* q, int r) { return q + static_cast<size_t>(r) * sizeof(ActivationBlock); }
// Rows 0..7 or 8..15, which are 0 or 32 bytes into a quad of codes.
template <int kHalf>
inline __m256i& half_of(i32x16& v) {
  static_assert(kHalf == 0 || kHalf == 32);
  return kHalf == 0 ? v.lo : v.hi;
}
inline f32x16 to_float(i32x16 v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }

// sums[r] += the integer sums times the scales of the activations
template <int kRows>
inline void add_scaled(const i32x16 (*dots)[1], const ActivationBlock* activations, f32x16 (*sums)[1]) {
  for (int r = 0; r < kRows; ++r) sums[r][0] = fma(to_float(dots[r][0]), f32x16::set1(activations[r].scale), sums[r][0]);
}

// Prefetches one share of the block at ahead. The shares are spread over the work on a block, because all prefetches at once would
// hold up the loads that follow them.
template <size_t kBlockBytes, int kShares>
inline void prefetch_share(const std::byte* ahead, int share) {
  constexpr size_t kBytes = kBlockBytes / static_cast<size_t>(kShares);
  prefetch(ahead + static_cast<size_t>(share) * kBytes, kBytes);
}

// Adds `add` to codes that have dot<rows>(block, ahead, activations, sums), which computes integer sums and prefetches.
template <class Codes>
struct WithAdd : Codes {
  template <int kRows>
  static void add(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, f32x16 (*sums)[1]) {
    i32x16 dots[kRows][1];
    Codes::template dot<kRows>(block, ahead, activations, dots);
    add_scaled<kRows>(dots, activations, sums);
  }
};

// codebook + kInt4Zero, for vpshufb
inline __m256i codebook_u8x32() {
  alignas(16) uint8_t table[16];
  for (int i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(kInt4Codebook[i] + kInt4Zero);
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

// The quads of low and of high nibbles, for the eight rows whose codes are at p.
inline void load_quad_pair_half(const std::byte* p, __m256i codebook, __m256i& low, __m256i& high) {
  const __m256i mask = _mm256_set1_epi8(15), packed = load_i8x32(p);
  low = _mm256_shuffle_epi8(codebook, _mm256_and_si256(packed, mask));
  high = _mm256_shuffle_epi8(codebook, _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask));
}
// For all sixteen rows: rows 0..7 and 8..15 of the first quad, then of the second.
inline void load_quad_pair(const std::byte* group, int j, __m256i codebook, __m256i w[4]) {
  load_quad_pair_half(group + j * 64, codebook, w[0], w[2]);
  load_quad_pair_half(group + j * 64 + 32, codebook, w[1], w[3]);
}

// A byte per row, with its sign.
inline i32x16 load_row_bytes(const std::byte* p) {
  const auto *bytes = reinterpret_cast<const __m128i*>(p), *upper = reinterpret_cast<const __m128i*>(p + 8);
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes)), _mm256_cvtepi8_epi32(_mm_loadl_epi64(upper))};
}
inline __m256i int4_multiplier(__m256i row_bytes) { return _mm256_srai_epi32(row_bytes, 2); }

struct Expanded {
  alignas(64) std::byte codes[kTileRows * kBlock];  // [32 quads][16 rows][4]
  // the results of as_factor; int4 has only the first row of them
  alignas(64) int32_t multipliers[kBlock / kInt6Group][kTileRows];
};
inline i32x16 load_factors(const int32_t* p) {
  const auto* factors = reinterpret_cast<const __m256i*>(p);
  return {_mm256_load_si256(factors), _mm256_load_si256(factors + 1)};
}
inline void store_factors(int32_t* p, i32x16 v) {
  auto* factors = reinterpret_cast<__m256i*>(p);
  _mm256_store_si256(factors, v.lo);
  _mm256_store_si256(factors + 1, v.hi);
}
inline void store_i8x32(std::byte* p, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), v); }

// Codes become codebook + offset + zero. as_factor(multipliers_i32x8): each row's multiplier as the operand that its sums are
// multiplied with.
template <class AsFactor>
inline void expand_int4(const std::byte* block, Expanded& out, AsFactor as_factor) {
  const __m256i codebook = codebook_u8x32();
  const i32x16 row_bytes = load_row_bytes(block + kTileRows * kBlock / 2);
  // the offset in all four bytes of a lane
  const auto offset_of = [](__m256i bytes) {
    const __m256i offset = _mm256_mullo_epi32(_mm256_and_si256(bytes, _mm256_set1_epi32(3)), _mm256_set1_epi32(0x01010101));
    return _mm256_add_epi8(offset, _mm256_set1_epi8(kInt4MinOffset));
  };
  const __m256i offset_lo = offset_of(row_bytes.lo), offset_hi = offset_of(row_bytes.hi);
  for (int g = 0; g < kBlock / kGroup; ++g) {
    for (int j = 0; j < 2; ++j) {
      __m256i w[4];
      load_quad_pair(block + g * 128, j, codebook, w);
      std::byte* quad = out.codes + g * 256 + j * 64;
      store_i8x32(quad, _mm256_add_epi8(w[0], offset_lo));
      store_i8x32(quad + 32, _mm256_add_epi8(w[1], offset_hi));
      store_i8x32(quad + 128, _mm256_add_epi8(w[2], offset_lo));
      store_i8x32(quad + 160, _mm256_add_epi8(w[3], offset_hi));
    }
  }
  store_factors(out.multipliers[0], {as_factor(int4_multiplier(row_bytes.lo)), as_factor(int4_multiplier(row_bytes.hi))});
}

// Quads j and j + 2 of the g-th sixteen columns, code + zero, for the eight rows whose codes are `half` bytes into a quad.
inline void load_int6_pair_half(const std::byte* block, int g, int j, int half, __m256i& first, __m256i& second) {
  const __m256i mask = _mm256_set1_epi8(15), high_mask = _mm256_set1_epi8(0x30);
  const __m256i nibbles = load_i8x32(block + g * 128 + j * 64 + half);
  const __m256i high = load_i8x32(block + kTileRows * kBlock / 2 + g * 64 + half);
  const auto with_high = [&](__m256i low, __m256i bits) {
    return _mm256_or_si256(_mm256_and_si256(low, mask), _mm256_and_si256(bits, high_mask));
  };
  first = with_high(nibbles, _mm256_slli_epi16(high, 4 - 2 * j));
  second = with_high(_mm256_srli_epi16(nibbles, 4), _mm256_srli_epi16(high, 2 * j));
}
// For all sixteen rows: rows 0..7 and 8..15 of the first quad, then of the second.
inline void load_int6_pair(const std::byte* block, int g, int j, __m256i w[4]) {
  load_int6_pair_half(block, g, j, 0, w[0], w[2]);
  load_int6_pair_half(block, g, j, 32, w[1], w[3]);
}
// Of 32 columns from the g-th sixteen on
template <class AsFactor>
inline i32x16 load_int6_factors(const std::byte* block, int g, AsFactor as_factor) {
  const i32x16 multipliers = load_row_bytes(block + kInt6Multipliers + g / 2 * kTileRows);
  return {as_factor(multipliers.lo), as_factor(multipliers.hi)};
}
template <class AsFactor>
inline void expand_int6(const std::byte* block, Expanded& out, AsFactor as_factor) {
  for (int g = 0; g < kBlock / kGroup; ++g) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      __m256i w[4];
      load_int6_pair(block, g, j, w);
      std::byte* quad = out.codes + g * 256 + j * 64;
      store_i8x32(quad, w[0]);
      store_i8x32(quad + 32, w[1]);
      store_i8x32(quad + 128, w[2]);
      store_i8x32(quad + 160, w[3]);
    }
    if (g % 2 == 0) store_factors(out.multipliers[g / 2], load_int6_factors(block, g, as_factor));
  }
}

}  // namespace
}  // namespace gptbigcode
