// AVX-512 with VNNI: Ice Lake, Cascade Lake, Zen 4 and later.
//
//   instruction              used for
//   vpdpbusd                 four u8 x s8 products per 32-bit lane, added up; one register is 16 rows x 4 k
//   vmulps, vpmulld          multiplier times dot product: int4, int6
//   vfmadd231ps              float accumulation
//
// int4: for one row and block, the accumulator starts at (offset - 16) * sum q. (codebook entry + 16) * q are added, so it ends as
// the sum of (entry + offset) * q. This is multiplied once, as a float: |.| <= 31 * 128 * 16 * 127 < 2^24, so the product is exact.
// int6: the same for each 32 columns, with code + 32. The sum of a block's four products may exceed 2^24, so they are integers.
// int8: the codes are weight + 128, so the accumulator starts at -128 * sum q over the block.

#include "base/float_bits.h"
#include "cpu/features.h"
#include "kernels/generic/quantized_linear.h"
#include "kernels/generic/record.h"
#include "kernels/kernels.h"
#include "kernels/x86/avx512_attention.h"
#include "kernels/x86/avx512_codes.h"
#include "kernels/x86/avx512_intrinsics.h"
#include "kernels/x86/avx512_lanes.h"

namespace gptbigcode {
namespace {

struct Products : ProductsOf512 {
  static constexpr int64_t kPanelRows = 256, kPanelBlocks = 4, kPanelTiles = 16;
};

struct AttentionByVnni : AttentionOf512 {
  static constexpr int kDotRows = 8, kDotTiles = 2;  // thirty-two registers: 16 sums; ten loads for sixteen products

  template <int kRows, int kTiles>
  static void dot_keys(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count, int64_t ahead,
                       i32x16* sum) {
    dot_codes<kRows, kTiles>(tile, tile_stride, quads, stride, count, ahead, sum, add_key_product);
  }
  template <int kRows, int kTiles>
  static void dot_values(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count,
                         int64_t ahead, i32x16* sum) {
    dot_codes<kRows, kTiles>(tile, tile_stride, quads, stride, count, ahead, sum, add_value_product);
  }
};

struct Avx512Vnni {
  using Floats = f32x16;
  using SamplingFloats = Float8;
  static constexpr int kFloatRowsAtOnce = 8;
  static constexpr LinearKernel linear_int8 = linear_quantized<Int8Weights<Products>>;
  static constexpr LinearKernel linear_int6 = linear_quantized<RowScaled<Products, Int6>>;
  static constexpr LinearKernel linear_int4 = linear_quantized<RowScaled<Products, Int4>>;
  static constexpr AttentionKernel attention_int8 = attention<Int8Kv<AttentionByVnni>>;

  static int32_t sum_codes(const int8_t* q, int32_t* starts) { return gptbigcode::sum_codes(q, starts); }

  static int64_t int8_peak(int64_t rounds) {
    constexpr int kChains = 10;
    __m512i sum[kChains] = {}, a = _mm512_setzero_si512();
    for (int64_t round = 0; round < rounds; ++round) {
      for (auto& s : sum) s = dpbusd(s, a, a);
    }
    for (auto& s : sum) asm volatile("" : : "m"(s));
    return rounds * kChains * 64;
  }
};

}  // namespace

const Kernels kAvx512VnniKernels = kernel_set<Avx512Vnni>("avx512_vnni", kRequiredForAvx512Vnni);

}  // namespace gptbigcode
