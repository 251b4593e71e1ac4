// AVX-512 with VNNI: Ice Lake, Cascade Lake, Zen 4 and later.
//
//   instruction              used for
//   vpdpbusd                 four u8 x s8 products per 32-bit lane, added up; one register is 16 rows x 4 k
//   vmulps, vpmulld          multiplier times dot product: int4, int6
//   vfmadd231ps              float accumulation
//
// int4, for one row and block: the accumulator starts at (offset - 16) * sum q, takes (codebook entry + 16) * q, and ends as the
// sum of (entry + offset) * q, which is multiplied once: |.| <= 31 * 128 * 16 * 127 < 2^24, so the product of floats is exact.
// int6: so for each 32 columns, with code + 32; the sum of the four products may exceed 2^24, so they are integers.
// int8: the accumulator starts at -128 * sum q over the block; codes are q + 128.

#include "base/float_bits.h"
#include "cpu/features.h"
#include "kernels/avx512_intrinsics.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

struct f32x16 {
  __m512 v;
};

inline f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline f32x16 load_bf16(const uint16_t* p) {
  const __m512i wide_i32x16 = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide_i32x16, 16))};
}
inline f32x16 load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
inline f32x16 add(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline f32x16 sub(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline f32x16 mul(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline f32x16 div(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline f32x16 select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
inline f32x16 half_pow2(f32x16 t) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t.v), 23))}; }
inline f32x16 magnitude(f32x16 a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff)))};
}
// As integers: of numbers without a sign the order is the same, and NaN is above all.
inline f32x16 max_or_nan(f32x16 a, f32x16 b) {
  return {_mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}
inline float reduce_add(f32x16 a) {
  __m512 v = _mm512_add_ps(a.v, _mm512_shuffle_f32x4(a.v, a.v, 0x4e));
  v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
  return _mm512_cvtss_f32(_mm512_add_ps(v, _mm512_permute_ps(v, 0xb1)));
}
// fold(a, b): max or max_or_nan
template <class Fold>
inline float reduce(f32x16 a, Fold fold) {
  a = fold(a, f32x16{_mm512_shuffle_f32x4(a.v, a.v, 0x4e)});
  a = fold(a, f32x16{_mm512_shuffle_f32x4(a.v, a.v, 0xb1)});
  a = fold(a, f32x16{_mm512_permute_ps(a.v, 0x4e)});
  return _mm512_cvtss_f32(fold(a, f32x16{_mm512_permute_ps(a.v, 0xb1)}).v);
}
inline float reduce_max(f32x16 a) {
  return reduce(a, [](f32x16 x, f32x16 y) { return max(x, y); });
}
inline float reduce_max_or_nan(f32x16 a) {
  return reduce(a, [](f32x16 x, f32x16 y) { return max_or_nan(x, y); });
}

// Eight rows at once: lanes of different rows are folded together.
template <int kRows, class Fold>
inline void reduce_rows(const f32x16* v, float* results, Fold fold) {
  if constexpr (kRows == 8) {
    f32x16 four[2];  // of rows 0..3 and 4..7, a row in each quarter
    const auto shuffled = [&]<int kFirst, int kSecond>(f32x16 a, f32x16 b) {
      return fold(f32x16{_mm512_shuffle_f32x4(a.v, b.v, kFirst)}, f32x16{_mm512_shuffle_f32x4(a.v, b.v, kSecond)});
    };
    for (int i = 0; i < 4; i += 2) {
      const f32x16 two[2] = {shuffled.template operator()<0x44, 0xee>(v[i * 2], v[i * 2 + 1]),
                             shuffled.template operator()<0x44, 0xee>(v[i * 2 + 2], v[i * 2 + 3])};
      four[i / 2] = shuffled.template operator()<0x88, 0xdd>(two[0], two[1]);
    }
    f32x16 all = fold(f32x16{_mm512_unpacklo_ps(four[0].v, four[1].v)}, f32x16{_mm512_unpackhi_ps(four[0].v, four[1].v)});
    all = fold(all, f32x16{_mm512_permute_ps(all.v, 0x4e)});
    alignas(64) float lanes[16];  // two rows in each quarter
    store(lanes, all);
    for (int r = 0; r < 8; ++r) results[r] = lanes[r % 4 * 4 + r / 4];
  } else if constexpr (kRows > 8) {
    reduce_rows<8>(v, results, fold);
    reduce_rows<kRows - 8>(v + 8, results + 8, fold);
  } else {
    for (int r = 0; r < kRows; ++r) results[r] = reduce(v[r], fold);
  }
}
template <int kRows>
inline void reduce_max_of_rows(const f32x16* v, float* maxima) {
  reduce_rows<kRows>(v, maxima, [](f32x16 x, f32x16 y) { return max(x, y); });
}
template <int kRows>
inline void reduce_max_or_nan_of_rows(const f32x16* v, float* maxima) {
  reduce_rows<kRows>(v, maxima, [](f32x16 x, f32x16 y) { return max_or_nan(x, y); });
}

inline void store_codes(int8_t* q, f32x16 magic) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(_mm512_castps_si512(magic.v)));
}
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

// Built on those.
#include "kernels/vector_kernels.inc"

// ---------------------------------------------------------------- integer dot products of one tile block

using i32x16 = __m512i;

inline __m512i load_i8x64(const std::byte* p) { return _mm512_loadu_si512(p); }
// For two uses: GCC would rather load twice, and most loads of packed codes cross a cache line.
inline __m512i load_once(const std::byte* p) { return in_register(load_i8x64(p)); }

inline __m512i broadcast_i32(const void* p) {
  int32_t value;
  __builtin_memcpy(&value, p, 4);
  return _mm512_set1_epi32(value);
}

// The same of the r-th activations after these, at a constant distance: pointers to all would not fit the registers.
template <class T>
inline const T* of_row(const T* p, int r) {
  return reinterpret_cast<const T*>(reinterpret_cast<const std::byte*>(p) + static_cast<size_t>(r) * sizeof(ActivationBlock));
}

// Bytes [quads][16 rows][4] of adjacent tiles against the activations from column k on
template <int kRows, int kTiles>
inline void add_bytes(const std::byte* codes, size_t tile_bytes, int quads, const ActivationBlock* activations, int k,
                      i32x16 (*sum)[kTiles]) {
  const int8_t* q = activations->q + k;
#pragma GCC unroll 1
  for (int quad = 0; quad < quads; quad += 4, q += 16, codes += 256) {
    q = in_register(q);
    codes = in_register(codes);
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

// sum[r][t] = integer sums of the 16 rows of tile t against row r of the activations
template <int kRows, int kTiles>
inline void dot_int8(const std::byte* block, size_t tile_bytes, const ActivationBlock* activations, i32x16 (*sum)[kTiles]) {
  start_at<kRows, kTiles, 7>(activations, sum);
  add_bytes<kRows, kTiles>(block, tile_bytes, kBlock / 4, activations, 0, sum);
}

// codebook + kInt4Zero, for vpshufb
inline __m512i codebook_u8x64() {
  alignas(16) uint8_t table[16];
  for (int i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(kInt4Codebook[i] + kInt4Zero);
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
    alignas(64) float int4_multipliers[kTileRows];
    alignas(64) int32_t int6_multipliers[kBlock / kInt6Group][kTileRows];
  };
};
// sums[r][t] += dot products times what is left to multiply them with
template <int kRows, int kTiles>
inline void add_scaled(const i32x16 (*dots)[kTiles], const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTiles; ++t) sums[r][t] = fma(to_float(dots[r][t]), set1(activations[r].scale), sums[r][t]);
  }
}

inline const std::byte* codes_of(const Expanded* first) { return reinterpret_cast<const std::byte*>(first); }

struct Int4 {
  static constexpr size_t kBlockBytes = kInt4BlockBytes;

  template <int kRows>
  static void add(const std::byte* block, const std::byte* ahead, const ActivationBlock* activations, f32x16 (*sums)[1]) {
    const __m512i codebook = codebook_u8x64(), row_bytes = load_row_bytes(block + kTileRows * kBlock / 2);
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
      prefetch(ahead, 128);  // some at a time: all at once would hold up the loads behind them
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
      sums[r][0] = fma(mul(to_float(chains[r][0]), multiplier), set1(activations[r].scale), sums[r][0]);
    }
  }

  // Codes become codebook + offset + zero.
  static void expand(const std::byte* block, Expanded& out) {
    const __m512i codebook = codebook_u8x64(), row_bytes = load_row_bytes(block + kTileRows * kBlock / 2);
    // the offset in all four bytes of a lane
    const __m512i four_times = _mm512_mullo_epi32(_mm512_and_si512(row_bytes, _mm512_set1_epi32(3)), _mm512_set1_epi32(0x01010101));
    const __m512i offsets = _mm512_add_epi8(four_times, _mm512_set1_epi8(kInt4MinOffset));
    for (int g = 0; g < kBlock / kGroup; ++g) {
      for (int j = 0; j < 2; ++j) {
        __m512i w[2];
        load_quad_pair(block + g * 128, j, codebook, w);
        _mm512_store_si512(out.codes + g * 256 + j * 64, _mm512_add_epi8(w[0], offsets));
        _mm512_store_si512(out.codes + g * 256 + j * 64 + 128, _mm512_add_epi8(w[1], offsets));
      }
    }
    store(out.int4_multipliers, int4_multiplier(row_bytes));
  }

  template <int kRows, int kTiles>
  static void add_expanded(const Expanded* blocks, const ActivationBlock* activations, f32x16 (*sums)[kTiles]) {
    i32x16 dots[kRows][kTiles];
    start_at<kRows, kTiles, 4>(activations, dots);
    add_bytes<kRows, kTiles>(codes_of(blocks), sizeof(Expanded), kBlock / 4, activations, 0, dots);
    for (int t = 0; t < kTiles; ++t) {
      const f32x16 multiplier = load(blocks[t].int4_multipliers);
      for (int r = 0; r < kRows; ++r) {
        sums[r][t] = fma(mul(to_float(dots[r][t]), multiplier), set1(activations[r].scale), sums[r][t]);
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

  // Over the block's groups of 32 columns: factors(g, t) times what add(g, dot) adds to dot; g counts sixteens.
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
    prefetch(ahead, kBlockBytes);
    const auto add = [&](int first, i32x16(*dot)[1]) {
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
      add_bytes<kRows, kTiles>(codes_of(blocks) + g * 256, sizeof(Expanded), kInt6Group / 4, activations, g * kGroup, dot);
    };
    const auto factors = [&](int g, int t) { return _mm512_load_si512(blocks[t].int6_multipliers[g / 2]); };
    add_groups<kRows, kTiles>(activations, factors, add, sums);
  }
};

constexpr int kRowsAtOnce = 6;  // thirty-two registers: 6 rows x 2 tiles of sums and of a group's sums, 2 weights
constexpr int kTilesAtOnce = 2, kStreamedRows = 16;
constexpr int kManyStreamsRows = 8;
constexpr size_t kPrefetch = 8192;  // some pages: past one the hardware prefetcher starts anew

#include "kernels/quantized_linear.inc"
#include "kernels/x86_avx512_vnni_attention.inc"

// Built on those products.
#include "kernels/attention.inc"

int64_t int8_peak(int64_t rounds) {
  constexpr int kChains = 10;
  __m512i sum[kChains] = {}, a = _mm512_setzero_si512();
  for (int64_t round = 0; round < rounds; ++round) {
    for (auto& s : sum) s = dpbusd(s, a, a);
  }
  for (auto& s : sum) asm volatile("" : : "m"(s));
  return rounds * kChains * 64;
}

}  // namespace

const Kernels kAvx512VnniKernels = {
    .name = "avx512_vnni",
    .required = kRequiredForAvx512Vnni,
    .linear_float32 = linear_float<float>,
    .linear_bfloat16 = linear_float<uint16_t>,
    .linear_int8 = linear_quantized<Int8>,
    .linear_int6 = linear_quantized<RowScaled<Int6>>,
    .linear_int4 = linear_quantized<RowScaled<Int4>>,
    .quantize = quantize,
    .pack_int6 = pack_int6,
    .pack_int4 = pack_int4,
    .layer_norm = layer_norm,
    .activate = activate,
    .write_kv = {write_kv_float<float>, write_kv_float<BFloat16>, write_kv_float<Float16>, write_kv_int8},
    .attention = {attention<FloatKv<float>>, attention<FloatKv<BFloat16>>, attention<FloatKv<Float16>>, attention<Int8Kv>},
    .merge_attention = merge_attention,
    .softmax = softmax,
    .read = read,
    .int8_peak = int8_peak,
};

}  // namespace gptbigcode
