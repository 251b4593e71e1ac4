// AVX2 + FMA: Haswell (2013), Zen and later.
//
//   instruction              used for
//   vpmaddubsw               u8 x s8 products, added in pairs to 16 bit
//   vpmaddwd                 pairs of 16 bit to 32 bit, times the multiplier (int4, int6) or one (int8)
//   vpsignb, vpabsb          int8 x int8 through vpmaddubsw: |w| * sign(a, w)
//   vfmadd231ps              float accumulation
//
// int4: take one row and 32 columns. u = codebook entry + offset + 16 is an unsigned byte, and the activations q are -127..127.
// vpmaddubsw adds the products of two columns each, so a row has two 16-bit lanes, with sixteen columns each. A lane starts at -16
// times its share of sum q. It may wrap on the way, and ends as the sum of (entry + offset) * q over sixteen columns, which fits:
// |.| <= 16 * 16 * 127 = 32512 < 2^15. Then vpmaddwd, with the multiplier in both lanes, gives multiplier * dot in 32 bits. Where
// codes are not expanded first, the offset is left out of u, and the block's sum of q is multiplied with it instead. int6: the same
// for sixteen columns, with u = code + 32 and lanes that start at -32 times their sums: |.| <= 8 * 32 * 127 = 32512. int8: |w| *
// |a| <= 127 * 127, and two of these are <= 32258 < 2^15, so vpmaddubsw cannot saturate.

#include <immintrin.h>

#include "base/float_bits.h"
#include "cpu/features.h"
#include "kernels/generic/quantized_linear.h"
#include "kernels/generic/record.h"
#include "kernels/kernels.h"
#include "kernels/x86/avx2_attention.h"
#include "kernels/x86/avx2_codes.h"
#include "kernels/x86/avx2_lanes.h"

namespace gptbigcode {
namespace {

constexpr int kRowsAtOnce = 3;  // sixteen registers: 6 sums of a group, 6 of the block, 2 weights, an activation, a product

// The multiplier in both 16-bit halves of a lane.
inline __m256i as_factor(__m256i multipliers_i32x8) {
  const __m256i twice =
      _mm256_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, 0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
  return _mm256_shuffle_epi8(multipliers_i32x8, twice);
}
// ---------------------------------------------------------------- int8

// sum + w * a in 32-bit lanes. In assembly, because GCC would compute products far ahead and spill them.
inline __m256i multiply_add_signed(__m256i sum_i32x8, __m256i w_i8x32, __m256i abs_w, __m256i a_i8x32, __m256i ones_i16x16) {
  __m256i product;
  asm("vpsignb %[w], %[a], %[product]\n\t"
      "vpmaddubsw %[product], %[abs_w], %[product]\n\t"
      "vpmaddwd %[ones], %[product], %[product]\n\t"
      "vpaddd %[product], %[sum], %[sum]"
      : [sum] "+x"(sum_i32x8), [product] "=&x"(product)
      : [w] "x"(w_i8x32), [abs_w] "x"(abs_w), [a] "x"(a_i8x32), [ones] "x"(ones_i16x16));
  return sum_i32x8;
}

struct Products {
  using Floats = f32x16;
  using Integers = i32x16;
  using Expanded = gptbigcode::Expanded;
  static constexpr int kRowsAtOnce = gptbigcode::kRowsAtOnce, kTilesAtOnce = 1, kStreamedRows = 8, kManyStreamsRows = 4;
  static constexpr int kUnpackingPasses = 4;
  static constexpr size_t kPrefetch = 8192;  // some pages: past one the hardware prefetcher starts anew
  static constexpr int64_t kPanelRows = 256, kPanelBlocks = 4, kPanelTiles = 16;

  static f32x16 to_float(i32x16 v) { return gptbigcode::to_float(v); }

  // sum[r] = integer sums of the 16 rows of the tile block against row r's activations
  template <int kRows, int kTiles>
  static void dot_int8(const std::byte* tile, size_t, const std::byte* ahead, const ActivationBlock* activations,
                       i32x16 (*sum)[kTiles]) {
    if (ahead != nullptr) prefetch(ahead, kInt8BlockBytes);
    static_assert(kTiles == 1);
    if constexpr (kRows > kRowsAtOnce) {
      dot_int8<kRowsAtOnce, 1>(tile, 0, nullptr, activations, sum);
      return dot_int8<kRows - kRowsAtOnce, 1>(tile, 0, nullptr, activations + kRowsAtOnce, sum + kRowsAtOnce);
    }
    const __m256i ones_i16x16 = _mm256_set1_epi16(1);
    const __m256i zero_point = _mm256_set1_epi8(-128);  // code - 128 = code ^ 0x80 as a signed byte
    for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for_quads(tile, kBlock / 4, activations->q, [&](const std::byte* codes, const int8_t* q) {
      const __m256i w_lo = _mm256_xor_si256(load_i8x32(codes), zero_point);
      const __m256i w_hi = _mm256_xor_si256(load_i8x32(codes + 32), zero_point);
      const __m256i abs_lo = _mm256_abs_epi8(w_lo), abs_hi = _mm256_abs_epi8(w_hi);
      for (int r = 0; r < kRows; ++r) {
        const __m256i a = broadcast_i32(of_row(q, r));
        sum[r][0].lo = multiply_add_signed(sum[r][0].lo, w_lo, abs_lo, a, ones_i16x16);
        sum[r][0].hi = multiply_add_signed(sum[r][0].hi, w_hi, abs_hi, a, ones_i16x16);
      }
    });
  }
};

// ---------------------------------------------------------------- int4 and int6

// sum + w * a, added in pairs; in assembly for the same reason
inline __m256i multiply_add(__m256i sum_i16x16, __m256i w_u8x32, __m256i a_i8x32) {
  __m256i product;
  asm("vpmaddubsw %[a], %[w], %[product]\n\tvpaddw %[product], %[sum], %[sum]"
      : [sum] "+x"(sum_i16x16), [product] "=&x"(product)
      : [w] "x"(w_u8x32), [a] "x"(a_i8x32));
  return sum_i16x16;
}
template <int kRows>
inline void add_quad(__m256i w_lo, __m256i w_hi, const ActivationBlock* activations, int k, __m256i* lo_i16x16,
                     __m256i* hi_i16x16) {
  for (int r = 0; r < kRows; ++r) {
    const __m256i a = broadcast_i32(activations[r].q + k);
    lo_i16x16[r] = multiply_add(lo_i16x16[r], w_lo, a);
    hi_i16x16[r] = multiply_add(hi_i16x16[r], w_hi, a);
  }
}
// The same for rows 0..7 or 8..15 of a tile
template <int kRows>
inline void add_quad_half(__m256i w, const ActivationBlock* activations, int k, __m256i* dots_i16x16) {
  for (int r = 0; r < kRows; ++r) dots_i16x16[r] = multiply_add(dots_i16x16[r], w, broadcast_i32(activations[r].q + k));
}
template <int kRows, int kHalf>
inline void add_group_half(const __m256i* dots_i16x16, __m256i factors, i32x16 (*sum)[1]) {
  for (int r = 0; r < kRows; ++r) {
    __m256i& half = half_of<kHalf>(sum[r][0]);
    half = _mm256_add_epi32(half, _mm256_madd_epi16(dots_i16x16[r], factors));
  }
}
template <int kRows>
inline void add_group(const __m256i* lo_i16x16, const __m256i* hi_i16x16, __m256i m_lo, __m256i m_hi, i32x16 (*sum)[1]) {
  for (int r = 0; r < kRows; ++r) {
    sum[r][0].lo = _mm256_add_epi32(sum[r][0].lo, _mm256_madd_epi16(lo_i16x16[r], m_lo));
    sum[r][0].hi = _mm256_add_epi32(sum[r][0].hi, _mm256_madd_epi16(hi_i16x16[r], m_hi));
  }
}

// What int4's sums of columns 16g..16g+31 start at: |.| <= 16 * 16 * 127.
inline __m256i start_of_pair(const ActivationBlock& a, int g) {
  return _mm256_add_epi16(broadcast_i32(a.starts + g), broadcast_i32(a.starts + g + 1));
}

struct Int4 {
  static constexpr size_t kBlockBytes = kInt4BlockBytes;

  // Half a tile's rows at a time, so that the sums of more rows of activations fit the registers.
  template <int kRows, int kHalf>
  static void add_half(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, __m256i codebook,
                       __m256i factors, i32x16 (*sum)[1]) {
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; g += 2) {
      prefetch_share<kBlockBytes, 8>(ahead, kHalf / 32 * 4 + g / 2);
      __m256i dots_i16x16[kRows];
      for (int r = 0; r < kRows; ++r) dots_i16x16[r] = start_of_pair(activations[r], g);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        __m256i low, high;
        load_quad_pair_half(block + g * 128 + j * 64 + kHalf, codebook, low, high);
        const int k = g * kGroup + j / 2 * kGroup + j % 2 * 4;
        add_quad_half<kRows>(low, activations, k, dots_i16x16);
        add_quad_half<kRows>(high, activations, k + 8, dots_i16x16);
      }
      add_group_half<kRows, kHalf>(dots_i16x16, factors, sum);
    }
  }

  template <int kRows>
  static void dot(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, i32x16 (*sum)[1]) {
    const __m256i codebook = codebook_u8x32();
    const i32x16 row_bytes = load_row_bytes(block + kTileRows * kBlock / 2);
    const __m256i m_lo = int4_multiplier(row_bytes.lo), m_hi = int4_multiplier(row_bytes.hi);
    // The codes' offset goes into the block's sum at once: minus multiplier * offset, with a high half of zero.
    const auto offset_of = [](__m256i bytes, __m256i multiplier) {
      const __m256i minus = _mm256_sub_epi32(_mm256_set1_epi32(-kInt4MinOffset), _mm256_and_si256(bytes, _mm256_set1_epi32(3)));
      return _mm256_and_si256(_mm256_mullo_epi16(minus, multiplier), _mm256_set1_epi32(0xffff));
    };
    const __m256i offset_lo = offset_of(row_bytes.lo, m_lo), offset_hi = offset_of(row_bytes.hi, m_hi);
    for (int r = 0; r < kRows; ++r) {
      const __m256i negative_sum = broadcast_i32(&activations[r].negative_sum);
      sum[r][0] = {_mm256_madd_epi16(negative_sum, offset_lo), _mm256_madd_epi16(negative_sum, offset_hi)};
    }
    const __m256i factor_lo = as_factor(m_lo), factor_hi = as_factor(m_hi);
    if constexpr (kRows > kRowsAtOnce) {
      add_half<kRows, 0>(block, ahead, activations, codebook, factor_lo, sum);
      add_half<kRows, 32>(block, ahead, activations, codebook, factor_hi, sum);
      return;
    }
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; g += 2) {
      prefetch_share<kBlockBytes, 4>(ahead, g / 2);
      __m256i lo_i16x16[kRows], hi_i16x16[kRows];
      for (int r = 0; r < kRows; ++r) lo_i16x16[r] = hi_i16x16[r] = start_of_pair(activations[r], g);
      for (int j = 0; j < 4; ++j) {
        __m256i w[4];
        load_quad_pair(block + g * 128, j, codebook, w);
        const int k = g * kGroup + j / 2 * kGroup + j % 2 * 4;
        add_quad<kRows>(w[0], w[1], activations, k, lo_i16x16, hi_i16x16);
        add_quad<kRows>(w[2], w[3], activations, k + 8, lo_i16x16, hi_i16x16);
      }
      add_group<kRows>(lo_i16x16, hi_i16x16, factor_lo, factor_hi, sum);
    }
  }

  static void expand(const std::byte* block, Expanded& out) { expand_int4(block, out, as_factor); }

  template <int kRows, int kTiles>
  static void add_expanded(const Expanded* block, const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
    static_assert(kTiles == 1);
    i32x16 sum[kRows][1];
    for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; g += 2) {
      __m256i lo_i16x16[kRows], hi_i16x16[kRows];
      for (int r = 0; r < kRows; ++r) lo_i16x16[r] = hi_i16x16[r] = start_of_pair(activations[r], g);
      for (int quad = 0; quad < 8; ++quad) {
        const std::byte* w = block->codes + g * 256 + quad * 64;
        add_quad<kRows>(load_i8x32(w), load_i8x32(w + 32), activations, g * kGroup + quad * 4, lo_i16x16, hi_i16x16);
      }
      const i32x16 factors = load_factors(block->multipliers[0]);
      add_group<kRows>(lo_i16x16, hi_i16x16, factors.lo, factors.hi, sum);
    }
    add_scaled<kRows>(sum, activations, sums);
  }
};

struct Int6 {
  static constexpr size_t kBlockBytes = kInt6BlockBytes;

  static __m256i start(const ActivationBlock& a, int g) {  // twice what int4's zero takes
    static_assert(kInt6Zero == 2 * kInt4Zero);
    return _mm256_slli_epi16(broadcast_i32(a.starts + g), 1);
  }

  template <int kRows, int kHalf>
  static void add_half(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, i32x16 (*sum)[1]) {
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; ++g) {
      prefetch_share<kBlockBytes, 16>(ahead, kHalf / 32 * 8 + g);
      i32x16 factors = load_int6_factors(block, g, as_factor);
      __m256i dots_i16x16[kRows];
      for (int r = 0; r < kRows; ++r) dots_i16x16[r] = start(activations[r], g);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        __m256i first, second;
        load_int6_pair_half(block, g, j, kHalf, first, second);
        add_quad_half<kRows>(first, activations, g * kGroup + j * 4, dots_i16x16);
        add_quad_half<kRows>(second, activations, g * kGroup + j * 4 + 8, dots_i16x16);
      }
      add_group_half<kRows, kHalf>(dots_i16x16, half_of<kHalf>(factors), sum);
    }
  }

  template <int kRows>
  static void dot(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, i32x16 (*sum)[1]) {
    for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    if constexpr (kRows > kRowsAtOnce) {
      add_half<kRows, 0>(block, ahead, activations, sum);
      add_half<kRows, 32>(block, ahead, activations, sum);
      return;
    }
#pragma GCC unroll 1
    for (int pair = 0; pair < kBlock / kGroup; pair += 2) {
      prefetch_share<kBlockBytes, 4>(ahead, pair / 2);
      const i32x16 factors = load_int6_factors(block, pair, as_factor);
#pragma GCC unroll 2
      for (int g = pair; g < pair + 2; ++g) {
        __m256i lo_i16x16[kRows], hi_i16x16[kRows];
        for (int r = 0; r < kRows; ++r) lo_i16x16[r] = hi_i16x16[r] = start(activations[r], g);
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          __m256i w[4];
          load_int6_pair(block, g, j, w);
          add_quad<kRows>(w[0], w[1], activations, g * kGroup + j * 4, lo_i16x16, hi_i16x16);
          add_quad<kRows>(w[2], w[3], activations, g * kGroup + j * 4 + 8, lo_i16x16, hi_i16x16);
        }
        add_group<kRows>(lo_i16x16, hi_i16x16, factors.lo, factors.hi, sum);
      }
    }
  }

  static void expand(const std::byte* block, Expanded& out) { expand_int6(block, out, as_factor); }

  template <int kRows, int kTiles>
  static void add_expanded(const Expanded* block, const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
    static_assert(kTiles == 1);
    i32x16 sum[kRows][1];
    for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; ++g) {
      __m256i lo_i16x16[kRows], hi_i16x16[kRows];
      for (int r = 0; r < kRows; ++r) lo_i16x16[r] = hi_i16x16[r] = start(activations[r], g);
      for (int quad = 0; quad < 4; ++quad) {
        const std::byte* w = block->codes + g * 256 + quad * 64;
        add_quad<kRows>(load_i8x32(w), load_i8x32(w + 32), activations, g * kGroup + quad * 4, lo_i16x16, hi_i16x16);
      }
      const i32x16 factors = load_factors(block->multipliers[g / 2]);
      add_group<kRows>(lo_i16x16, hi_i16x16, factors.lo, factors.hi, sum);
    }
    add_scaled<kRows>(sum, activations, sums);
  }
};

// ---------------------------------------------------------------- the set

struct Avx2 {
  using Floats = f32x16;
  using SamplingFloats = Float8;
  static constexpr int kFloatRowsAtOnce = 4;
  static constexpr LinearKernel linear_int8 = linear_quantized<Int8Weights<Products>>;
  static constexpr LinearKernel linear_int6 = linear_quantized<RowScaled<Products, WithAdd<Int6>>>;
  static constexpr LinearKernel linear_int4 = linear_quantized<RowScaled<Products, WithAdd<Int4>>>;
  static constexpr AttentionKernel attention_int8 = attention<Int8Kv<AttentionByAvx2>>;

  // starts: for each sixteen columns, -kInt4Zero times both 16-bit sums of the pairs that vpmaddubsw adds.
  static int32_t sum_codes(const int8_t* q, int32_t* starts) {
    const __m256i ones_i16x16 = _mm256_set1_epi16(1), minus_zero = _mm256_set1_epi16(-kInt4Zero);
    __m256i total_i32x8 = _mm256_setzero_si256();
    for (int i = 0; i < kBlock / 32; ++i) {  // 32 columns at a time, sixteen in each half
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i * 32));
      const __m256i pairs_i16x16 = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
      total_i32x8 = _mm256_add_epi32(total_i32x8, _mm256_madd_epi16(pairs_i16x16, ones_i16x16));
      const __m256i half = _mm256_add_epi16(pairs_i16x16, _mm256_shuffle_epi32(pairs_i16x16, 0x4e));
      const __m256i sums = _mm256_mullo_epi16(_mm256_add_epi16(half, _mm256_shuffle_epi32(half, 0xb1)), minus_zero);
      starts[i * 2] = _mm256_extract_epi32(sums, 0);
      starts[i * 2 + 1] = _mm256_extract_epi32(sums, 4);
    }
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), total_i32x8);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
  }

  static int64_t int8_peak(int64_t rounds) {
    constexpr int kChains = 6;
    __m256i sum[kChains] = {}, a[kChains] = {};
    __m256i w = _mm256_setzero_si256();
    for (int64_t round = 0; round < rounds; ++round) {
      for (int i = 0; i < kChains; ++i) {
        asm volatile("" : "+x"(w), "+x"(a[i]));  // not known to be what it was: the product must be computed again
        sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(w, a[i]));
      }
    }
    for (auto& s : sum) asm volatile("" : : "x"(s));
    return rounds * kChains * 32;
  }
};

}  // namespace

const Kernels kAvx2Kernels = kernel_set<Avx2>("avx2", kAvx2 | kFma | kF16c);

}  // namespace gptbigcode
