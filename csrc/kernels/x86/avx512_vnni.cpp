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
#include "kernels/x86/avx512_intrinsics.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

#include "kernels/x86/avx512_lanes.h"

// Built on those.
#include "kernels/generic/vector_kernels.h"

// ---------------------------------------------------------------- integer dot products of one tile block

#include "kernels/x86/avx512_codes.h"

constexpr int kRowsAtOnce = 6;  // thirty-two registers: 6 rows x 2 tiles of sums and of a group's sums, 2 weights
constexpr int kTilesAtOnce = 2, kStreamedRows = 16;
constexpr int kUnpackingPasses = 2;
constexpr int kManyStreamsRows = 8;
constexpr size_t kPrefetch = 8192;  // some pages: past one the hardware prefetcher starts anew

constexpr int64_t kPanelRows = 256, kPanelBlocks = 4, kPanelTiles = 16;

#include "kernels/generic/quantized_linear.h"

// ---------------------------------------------------------------- attention

#include "kernels/x86/avx512_attention.h"

constexpr int kInt8DotRows = 8, kAttentionTiles = 2;  // thirty-two registers: 16 accumulators; ten loads for sixteen products

template <int kRows, int kTiles>
inline void dot_keys(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count, int64_t ahead,
                     i32x16* sum) {
  dot_codes<kRows, kTiles>(tile, tile_stride, quads, stride, count, ahead, sum, add_key_product);
}
template <int kRows, int kTiles>
inline void dot_values(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count, int64_t ahead,
                       i32x16* sum) {
  dot_codes<kRows, kTiles>(tile, tile_stride, quads, stride, count, ahead, sum, add_value_product);
}

// Built on those products.
#include "kernels/generic/attention.h"

int64_t int8_peak(int64_t rounds) {
  constexpr int kChains = 10;
  __m512i sum[kChains] = {}, a = _mm512_setzero_si512();
  for (int64_t round = 0; round < rounds; ++round) {
    for (auto& s : sum) s = dpbusd(s, a, a);
  }
  for (auto& s : sum) asm volatile("" : : "m"(s));
  return rounds * kChains * 64;
}

constexpr LinearKernel linear_int8 = linear_quantized<Int8>;
constexpr LinearKernel linear_int6 = linear_quantized<RowScaled<Int6>>;
constexpr LinearKernel linear_int4 = linear_quantized<RowScaled<Int4>>;
constexpr AttentionKernel attention_int8 = attention<Int8Kv>;

#include "kernels/generic/record.h"

}  // namespace

const Kernels kAvx512VnniKernels = kernel_set("avx512_vnni", kRequiredForAvx512Vnni);

}  // namespace gptbigcode
