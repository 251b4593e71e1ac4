// The record of a kernel set: what every instruction set implements. The scalar set defines the arithmetic; every other set
// returns the same bits. Kernels never allocate, throw or synchronise; their callers have checked every size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv_attention.h"
#include "kernels/sampling.h"
#include "kernels/weight_tiles.h"

namespace gptbigcode {

// A block of 128 activations of one token: value = scale * q.
struct alignas(64) ActivationBlock {  // no load of codes crosses a cache line
  int8_t q[kBlock];                   // -127..127
  int32_t starts[kBlock / kGroup];    // what the sums of int4 and int6 start at, in the kernel set's own form (sum_codes)
  float scale;
  int32_t negative_sum;  // minus the sum of all 128: where weight codes are unsigned, their zero point times this is added
};
static_assert(sizeof(ActivationBlock) == 192);

// out[m][n] = bias[n] + sum over k of x[m][k] * weight[n][k], for n in the given tiles; added to out if accumulate is set. The
// order of the float operations on the sum:
//   int8:        it starts at the bias; block after block, sum = fma(float(integer sum), row scale * activation scale, sum)
//   int4, int6:  it starts at zero; block after block, sum = fma(float(integer sum), activation scale, sum); at the end
//                fma(sum, row scale, bias)
//   float:       it starts at the bias; fma after fma in the order of k
struct LinearTask {
  const std::byte* weights;  // tiles as in docs/format.md
  int64_t n, k;
  const float* bias;                   // [n] or null
  const ActivationBlock* activations;  // [ceil(k/128)][m] for integer weights
  const float* x;                      // [m][k] for float weights
  int64_t m;
  float* out;  // [m][out_stride]
  int64_t out_stride;
  bool accumulate;
  float* scratch;  // kLinearScratch floats of this thread, 64-byte aligned; for integer weights
};
inline constexpr int64_t kLinearScratch = 512 * 16 * kTileRows;
using LinearKernel = void (*)(const LinearTask&, int64_t tile_begin, int64_t tile_end);

enum class Activation {
  kGeluTanh,
  kGeluErf,
  kGelu10,
  kQuickGelu,
  kRelu,
  kRelu2,
  kRelu6,
  kLeakyRelu,
  kSilu,
  kSigmoid,
  kTanh,
  kMish,
  kLinear
};

struct Kernels {
  const char* name;
  uint32_t required;  // mask of cpu/features.h
  LinearKernel linear_float32, linear_bfloat16, linear_int8, linear_int6, linear_int4;
  // One row of k floats -> blocks at out[0], out[stride], ...; k is padded with zeros to whole blocks.
  void (*quantize)(const float* x, int64_t k, ActivationBlock* out, int64_t stride);
  // Sixteen rows of weights -> a tile. x: [k][16 rows], k a multiple of 128, 64-byte aligned, overwritten;
  // scratch: k floats, 64-byte aligned.
  void (*pack_int6)(float* x, int64_t k, const ErrorFeedback&, float* scratch, std::byte* out);
  void (*pack_int4)(float* x, int64_t k, const ErrorFeedback&, float* scratch, std::byte* out);
  void (*layer_norm)(const float* x, int64_t k, const float* weight, const float* bias, float epsilon, float* out);
  void (*activate)(Activation, float* x, int64_t n);  // in place
  // The next two are indexed by KvDType. write_kv returns whether every number fits the type: a finite one has to stay finite.
  bool (*write_kv[kKvDTypes])(const KvWrite&);
  AttentionKernel attention[kKvDTypes];
  // out[head_dim] = the attention that `count` partial results, chunk after chunk, make together, plus the bias (null: none).
  void (*merge_attention)(float* partials, int64_t count, int64_t head_dim, const float* bias, float* out);
  void (*softmax)(float* x, int64_t n);  // in place, n > 0
  SamplingKernels sampling;
  // The largest of some floats, leaving out NaNs, read as 1, 2, 4 or 8 streams side by side. Nothing that reads memory is faster.
  float (*read)(const float* data, int64_t count, int streams);
  // The cheapest int8 products of the set, on registers, in independent chains. No matrix product is faster. Returns the number
  // of multiply-adds done.
  int64_t (*int8_peak)(int64_t rounds);
};

// In the order of preference, best first, scalar last.
struct KernelList {
  const Kernels* const* begin_;
  const Kernels* const* end_;
  const Kernels* const* begin() const { return begin_; }
  const Kernels* const* end() const { return end_; }
};
KernelList all_kernels();
bool supported(const Kernels&);
// Empty name: the environment variable GPTBIGCODE_CPU_ISA, or else the best supported one.
// Throws std::invalid_argument if the name is unknown or this CPU cannot run it.
const Kernels& select_kernels(const char* name);

// Each is defined by the file of its set, if that is part of the build (CMakeLists.txt).
extern const Kernels kScalarKernels, kAvx2Kernels, kAvxVnniKernels, kAvx512VnniKernels, kAvx512AmxKernels;

}  // namespace gptbigcode
