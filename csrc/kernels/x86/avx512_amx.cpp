// AVX-512 with AMX: Sapphire Rapids and later. A tile register holds sixteen rows of 64 bytes; one instruction multiplies sixteen
// rows of activations with sixteen rows of weights, 64 columns at a time.
//
//   instruction              used for
//   tdpbssd                  sums of s8 x s8 products: linear layers
//   tdpbsud, tdpbusd         with one side unsigned: keys, and the numerators of the softmax
//
// The integer sums are exact, so they equal those of vpdpbusd, and the float operations after them are the same. The tiles of the
// weights already have the layout that the instructions need, [k/4][16 rows][4]. A few rows are done sooner without tile registers;
// these, and int6, are computed as in x86/avx512_vnni.cpp.

#include "base/float_bits.h"
#include "cpu/features.h"
#include "kernels/generic/quantized_linear.h"
#include "kernels/generic/record.h"
#include "kernels/kernels.h"
#include "kernels/x86/amx_attention.h"
#include "kernels/x86/amx_intrinsics.h"
#include "kernels/x86/amx_linear.h"
#include "kernels/x86/avx512_codes.h"
#include "kernels/x86/avx512_lanes.h"

namespace gptbigcode {
namespace {

struct Products : ProductsOf512 {
  static constexpr int64_t kPanelRows = 512, kPanelBlocks = 4, kPanelTiles = 16;  // a CPU with AMX has 2 MiB of second-level cache
};

struct Avx512Amx {
  using Floats = f32x16;
  using SamplingFloats = Float8;
  static constexpr int kFloatRowsAtOnce = 8;
  static constexpr LinearKernel linear_int8 = linear_quantized<Tiled<TiledInt8<Products>>>;
  static constexpr LinearKernel linear_int6 = linear_quantized<RowScaled<Products, Int6>>;
  static constexpr LinearKernel linear_int4 = linear_quantized<Tiled<TiledInt4<Products>>>;

  static int32_t sum_codes(const int8_t* q, int32_t* starts) { return gptbigcode::sum_codes(q, starts); }

  static void attention_int8(const AttentionTask& task) {
    TileRegisters registers;
    registers.set_rows(16, 16);
    attention<Int8Kv<AttentionByAmx>>(task);
  }

  static int64_t int8_peak(int64_t rounds) {
    rounds /= 16;
    TileRegisters registers;
    registers.set_rows(16, 16);
    for (int64_t round = 0; round < rounds; ++round) {
      add_s8_s8<0, 4, 6>();
      add_s8_s8<1, 4, 7>();
      add_s8_s8<2, 5, 6>();
      add_s8_s8<3, 5, 7>();
    }
    return rounds * 4 * 16 * 16 * 64;
  }
};

}  // namespace

const Kernels kAvx512AmxKernels = kernel_set<Avx512Amx>("avx512_amx", kRequiredForAvx512Vnni | kRequiredForAmx);

}  // namespace gptbigcode
