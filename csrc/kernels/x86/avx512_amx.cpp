// AVX-512 with AMX: Sapphire Rapids and later. A tile register holds sixteen rows of 64 bytes; one instruction multiplies sixteen
// rows of activations with sixteen rows of weights, 64 columns at a time.
//
//   instruction              used for
//   tdpbssd                  sums of s8 x s8 products: linear layers
//   tdpbsud, tdpbusd         with one side unsigned: keys, and the numerators of the softmax
//
// The integer sums are exact, so they equal those of vpdpbusd; what follows them is the same. The weights' tiles are already in the
// layout that the instructions want, [k/4][16 rows][4]. What has fewer rows than a tile is worth, and int6, is done as in
// x86/avx512_vnni.cpp.

#include <utility>

#include "base/float_bits.h"
#include "cpu/features.h"
#include "kernels/x86/amx_intrinsics.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

#include "kernels/x86/avx512_lanes.h"

// Built on those.
#include "kernels/generic/vector_kernels.h"

// ---------------------------------------------------------------- integer dot products of one tile block

#include "kernels/x86/avx512_codes.h"

// As in x86/avx512_vnni.cpp, but a CPU with AMX has a second-level cache of 2 MiB.
constexpr int kRowsAtOnce = 6, kTilesAtOnce = 2, kStreamedRows = 16;
constexpr int kUnpackingPasses = 2;
constexpr int kManyStreamsRows = 8;
constexpr size_t kPrefetch = 8192;
constexpr int64_t kPanelRows = 512, kPanelBlocks = 4, kPanelTiles = 16;

#include "kernels/generic/quantized_linear.h"

// Built on those.
#include "kernels/x86/amx_linear.h"

constexpr LinearKernel linear_int8 = linear_quantized<Tiled<TiledInt8>>;
constexpr LinearKernel linear_int6 = linear_quantized<RowScaled<Int6>>;
constexpr LinearKernel linear_int4 = linear_quantized<Tiled<TiledInt4>>;

// ---------------------------------------------------------------- attention

#include "kernels/x86/avx512_attention.h"

// Built on those.
#include "kernels/x86/amx_attention.h"

// Built on those products.
#include "kernels/generic/attention.h"

void attention_int8(const AttentionTask& task) {
  TileRegisters registers;
  registers.set_rows(16, 16);
  attention<Int8Kv>(task);
}

int64_t int8_peak(int64_t rounds) {
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

#include "kernels/generic/record.h"

}  // namespace

const Kernels kAvx512AmxKernels = kernel_set("avx512_amx", kRequiredForAvx512Vnni | kRequiredForAmx);

}  // namespace gptbigcode
