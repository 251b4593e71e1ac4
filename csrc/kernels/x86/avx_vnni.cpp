// AVX-VNNI, the VEX-encoded VNNI of CPUs without AVX-512: Alder Lake and later, Zen 5.
//
//   instruction              used for
//   vpdpbusd                 four u8 x s8 products per 32-bit lane, added up; two registers are 16 rows x 4 k
//   vpmulld                  multiplier times dot product
//   vfmadd231ps              float accumulation
//
// The algebra is that of x86/avx512_vnni.cpp, in halves of eight rows.

#include "base/float_bits.h"
#include "cpu/features.h"
#include "kernels/generic/quantized_linear.h"
#include "kernels/generic/record.h"
#include "kernels/kernels.h"
#include "kernels/x86/avx2_codes.h"
#include "kernels/x86/avx2_lanes.h"
#include "kernels/x86/avx_vnni_attention.h"
#include "kernels/x86/avx_vnni_intrinsics.h"

namespace gptbigcode {
namespace {

constexpr int kRowsAtOnce = 6;     // sixteen registers: 12 sums, 2 weights, an activation
constexpr int kWholeTileRows = 4;  // more rows than this take half a tile's outputs at a time

inline __m256i as_factor(__m256i multipliers_i32x8) { return multipliers_i32x8; }

template <int kRows>
inline void add_quad(__m256i w_lo, __m256i w_hi, const ActivationBlock* activations, int k, i32x16 (*sum)[1]) {
  for (int r = 0; r < kRows; ++r) {
    const __m256i a = broadcast_i32(activations[r].q + k);
    sum[r][0].lo = dpbusd(sum[r][0].lo, w_lo, a);
    sum[r][0].hi = dpbusd(sum[r][0].hi, w_hi, a);
  }
}
// The same for rows 0..7 or 8..15 of a tile
template <int kRows>
inline void add_quad_half(__m256i w, const ActivationBlock* activations, int k, __m256i* sums) {
  for (int r = 0; r < kRows; ++r) sums[r] = dpbusd(sums[r], w, broadcast_i32(activations[r].q + k));
}
// Bytes [quads][16 rows][4] against the activations from column k on
template <int kRows>
inline void add_bytes(const std::byte* codes, int quads, const ActivationBlock* activations, int k, i32x16 (*sum)[1]) {
  for_quads(codes, quads, activations->q + k, [&](const std::byte* w, const int8_t* q) {
    const __m256i lo = load_i8x32(w), hi = load_i8x32(w + 32);
    for (int r = 0; r < kRows; ++r) {
      const __m256i a = broadcast_i32(of_row(q, r));
      sum[r][0].lo = dpbusd(sum[r][0].lo, lo, a);
      sum[r][0].hi = dpbusd(sum[r][0].hi, hi, a);
    }
  });
}
template <int kRows>
inline void start_at(int zero, const ActivationBlock* activations, i32x16 (*sum)[1]) {
  for (int r = 0; r < kRows; ++r) sum[r][0].lo = sum[r][0].hi = _mm256_set1_epi32(activations[r].negative_sum * zero);
}
inline void multiply(i32x16& sum, i32x16 factors) {
  sum = {_mm256_mullo_epi32(sum.lo, factors.lo), _mm256_mullo_epi32(sum.hi, factors.hi)};
}

struct Products {
  using Floats = f32x16;
  using Integers = i32x16;
  using Expanded = gptbigcode::Expanded;
  static constexpr int kRowsAtOnce = gptbigcode::kRowsAtOnce, kTilesAtOnce = 1, kStreamedRows = 8, kManyStreamsRows = 4;
  static constexpr int kUnpackingPasses = 2;
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
      dot_int8<kRows / 2, 1>(tile, 0, nullptr, activations, sum);
      return dot_int8<kRows - kRows / 2, 1>(tile, 0, nullptr, activations + kRows / 2, sum + kRows / 2);
    }
    start_at<kRows>(128, activations, sum);
    add_bytes<kRows>(tile, kBlock / 4, activations, 0, sum);
  }
};

struct Int4 {
  static constexpr size_t kBlockBytes = kInt4BlockBytes;

  // Half a tile's rows at a time, so that the sums of more rows of activations fit the registers.
  template <int kRows, int kHalf>
  static void add_half(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, __m256i codebook,
                       i32x16 (*sum)[1]) {
    __m256i half[kRows];
    for (int r = 0; r < kRows; ++r) half[r] = half_of<kHalf>(sum[r][0]);
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; ++g) {
      prefetch_share<kBlockBytes, 16>(ahead, kHalf / 32 * 8 + g);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        __m256i low, high;
        load_quad_pair_half(block + g * 128 + j * 64 + kHalf, codebook, low, high);
        add_quad_half<kRows>(low, activations, g * kGroup + j * 4, half);
        add_quad_half<kRows>(high, activations, g * kGroup + j * 4 + 8, half);
      }
    }
    for (int r = 0; r < kRows; ++r) half_of<kHalf>(sum[r][0]) = half[r];
  }

  template <int kRows>
  static void dot(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, i32x16 (*sum)[1]) {
    const __m256i codebook = codebook_u8x32();
    const i32x16 row_bytes = load_row_bytes(block + kTileRows * kBlock / 2);
    // zero - offset, with a high half of zero: what minus the sum of the activations is multiplied with
    const auto zero_of = [](__m256i bytes) {
      return _mm256_sub_epi32(_mm256_set1_epi32(kInt4Zero - kInt4MinOffset), _mm256_and_si256(bytes, _mm256_set1_epi32(3)));
    };
    const __m256i zero_lo = zero_of(row_bytes.lo), zero_hi = zero_of(row_bytes.hi);
    for (int r = 0; r < kRows; ++r) {
      const __m256i negative_sum = broadcast_i32(&activations[r].negative_sum);
      sum[r][0] = {_mm256_madd_epi16(negative_sum, zero_lo), _mm256_madd_epi16(negative_sum, zero_hi)};
    }
    if constexpr (kRows > kWholeTileRows) {
      add_half<kRows, 0>(block, ahead, activations, codebook, sum);
      add_half<kRows, 32>(block, ahead, activations, codebook, sum);
    } else {
      for (int g = 0; g < kBlock / kGroup; ++g) {
        prefetch_share<kBlockBytes, 8>(ahead, g);
        for (int j = 0; j < 2; ++j) {
          __m256i w[4];
          load_quad_pair(block + g * 128, j, codebook, w);
          add_quad<kRows>(w[0], w[1], activations, g * kGroup + j * 4, sum);
          add_quad<kRows>(w[2], w[3], activations, g * kGroup + j * 4 + 8, sum);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) multiply(sum[r][0], {int4_multiplier(row_bytes.lo), int4_multiplier(row_bytes.hi)});
  }

  static void expand(const std::byte* block, Expanded& out) { expand_int4(block, out, as_factor); }

  template <int kRows, int kTiles>
  static void add_expanded(const Expanded* block, const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
    static_assert(kTiles == 1);
    i32x16 sum[kRows][1];
    start_at<kRows>(kInt4Zero, activations, sum);
    add_bytes<kRows>(block->codes, kBlock / 4, activations, 0, sum);
    for (int r = 0; r < kRows; ++r) multiply(sum[r][0], load_factors(block->multipliers[0]));
    add_scaled<kRows>(sum, activations, sums);
  }
};

struct Int6 {
  static constexpr size_t kBlockBytes = kInt6BlockBytes;

  // sum[r] = over the block's groups of 32 columns, factors(g) times what add(g, dot) adds to dot; g counts sixteens
  template <int kRows, class Factors, class Add>
  static void dot_groups(const ActivationBlock* activations, Factors factors, Add add, i32x16 (*sum)[1]) {
    for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
    for (int g = 0; g < kBlock / kGroup; g += 2) {
      i32x16 dot[kRows][1];
      for (int r = 0; r < kRows; ++r) {
        dot[r][0].lo = dot[r][0].hi = broadcast_i32(activations[r].starts + g / 2);
      }
      add(g, dot);
      const i32x16 multipliers = factors(g);
      for (int r = 0; r < kRows; ++r) {
        multiply(dot[r][0], multipliers);
        sum[r][0] = {_mm256_add_epi32(sum[r][0].lo, dot[r][0].lo), _mm256_add_epi32(sum[r][0].hi, dot[r][0].hi)};
      }
    }
  }

  template <int kRows, int kHalf>
  static void add_half(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, i32x16 (*sum)[1]) {
    __m256i half[kRows];
    for (auto& s : half) s = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (int first = 0; first < kBlock / kGroup; first += 2) {
      prefetch_share<kBlockBytes, 8>(ahead, kHalf / 32 * 4 + first / 2);
      __m256i dots[kRows];
      for (int r = 0; r < kRows; ++r) dots[r] = broadcast_i32(activations[r].starts + first / 2);
#pragma GCC unroll 2
      for (int g = first; g < first + 2; ++g) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          __m256i low, high;
          load_int6_pair_half(block, g, j, kHalf, low, high);
          add_quad_half<kRows>(low, activations, g * kGroup + j * 4, dots);
          add_quad_half<kRows>(high, activations, g * kGroup + j * 4 + 8, dots);
        }
      }
      i32x16 factors = load_int6_factors(block, first, as_factor);
      for (int r = 0; r < kRows; ++r) {
        half[r] = _mm256_add_epi32(half[r], _mm256_mullo_epi32(dots[r], half_of<kHalf>(factors)));
      }
    }
    for (int r = 0; r < kRows; ++r) half_of<kHalf>(sum[r][0]) = half[r];
  }

  template <int kRows>
  static void dot(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, i32x16 (*sum)[1]) {
    if constexpr (kRows > kWholeTileRows) {
      add_half<kRows, 0>(block, ahead, activations, sum);
      add_half<kRows, 32>(block, ahead, activations, sum);
      return;
    }
    const auto add = [&](int first, i32x16(*dot)[1]) {
      prefetch_share<kBlockBytes, 4>(ahead, first / 2);
#pragma GCC unroll 2
      for (int g = first; g < first + 2; ++g) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          __m256i w[4];
          load_int6_pair(block, g, j, w);
          add_quad<kRows>(w[0], w[1], activations, g * kGroup + j * 4, dot);
          add_quad<kRows>(w[2], w[3], activations, g * kGroup + j * 4 + 8, dot);
        }
      }
    };
    dot_groups<kRows>(activations, [&](int g) { return load_int6_factors(block, g, as_factor); }, add, sum);
  }

  static void expand(const std::byte* block, Expanded& out) { expand_int6(block, out, as_factor); }

  template <int kRows, int kTiles>
  static void add_expanded(const Expanded* block, const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
    static_assert(kTiles == 1);
    i32x16 sum[kRows][1];
    const auto add = [&](int g, i32x16(*dot)[1]) {
      add_bytes<kRows>(block->codes + g * 256, kInt6Group / 4, activations, g * kGroup, dot);
    };
    dot_groups<kRows>(activations, [&](int g) { return load_factors(block->multipliers[g / 2]); }, add, sum);
    add_scaled<kRows>(sum, activations, sums);
  }
};

struct AvxVnni {
  using Floats = f32x16;
  using SamplingFloats = Float8;
  static constexpr int kFloatRowsAtOnce = 4;
  static constexpr LinearKernel linear_int8 = linear_quantized<Int8Weights<Products>>;
  static constexpr LinearKernel linear_int6 = linear_quantized<RowScaled<Products, WithAdd<Int6>>>;
  static constexpr LinearKernel linear_int4 = linear_quantized<RowScaled<Products, WithAdd<Int4>>>;
  static constexpr AttentionKernel attention_int8 = attention<Int8Kv<AttentionByAvxVnni>>;

  // starts: for each 32 columns, -kInt6Zero times their sum.
  static int32_t sum_codes(const int8_t* q, int32_t* starts) {
    int32_t total = 0;
    for (int g = 0; g < kBlock / kInt6Group; ++g) {
      alignas(32) int32_t lanes[8];
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + g * kInt6Group));
      _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), dpbusd(_mm256_setzero_si256(), _mm256_set1_epi8(1), codes));
      const int32_t sum = lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
      starts[g] = -kInt6Zero * sum;
      total += sum;
    }
    return total;
  }

  static int64_t int8_peak(int64_t rounds) {
    constexpr int kChains = 10;
    __m256i sum[kChains] = {}, a = _mm256_setzero_si256();
    for (int64_t round = 0; round < rounds; ++round) {
      for (auto& s : sum) s = dpbusd(s, a, a);
    }
    for (auto& s : sum) asm volatile("" : : "x"(s));
    return rounds * kChains * 32;
  }
};

}  // namespace

const Kernels kAvxVnniKernels = kernel_set<AvxVnni>("avx_vnni", kRequiredForAvxVnni);

}  // namespace gptbigcode
