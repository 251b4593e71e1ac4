// The record of a kernel set: what every instruction set implements. The scalar set defines the arithmetic; every other set
// returns the same bits. Kernels never allocate, throw or synchronise; their callers have checked every size.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gptbigcode {

inline constexpr int kTileRows = 16;  // output features of a tile, and lanes of every reduction
inline constexpr int kBlock = 128;    // input features that share a float scale
inline constexpr int kGroup = 32;     // input features that share an int4 multiplier
inline constexpr int kKvBlock = 64;   // tokens of a block of the KV cache, and of one step of the softmax
inline constexpr size_t kInt8TileBytes = 16 * 128 + 16 * 2;
inline constexpr size_t kInt4TileBytes = 16 * 128 / 2 + 4 * 16 + 16 * 2;

enum class DType { kFloat32, kBFloat16, kInt8, kInt4 };

// A block of 128 activations of one token: value = scale * q. The sums are what kernels with unsigned weight codes subtract:
// sum((code - zero) * q) = sum(code * q) + zero * negative sum. They are kept per pair because AVX2 adds products in pairs.
struct alignas(32) ActivationBlock {
  int8_t q[kBlock];               // -127..127
  int16_t negative_pair_sums[8];  // per group of 32: minus the sum of q over k % 4 in {0, 1}, then over {2, 3}
  float scale;
  int32_t negative_sum;  // minus the sum of all 128
  int32_t padding[2];
};
static_assert(sizeof(ActivationBlock) == 160);

// out[m][n] = bias[n] + sum over k of x[m][k] * weight[n][k], added to out if accumulate is set; for n in the given tiles.
// Quantised: float accumulator, starting at the bias; block after block, fma(float(integer sum), row scale * activation scale, .).
// Float: fma after fma in the order of k.
struct LinearTask {
  const std::byte* weights;  // tiles as in docs/format.md
  int64_t n, k;
  const float* bias;                   // [n] or null
  const ActivationBlock* activations;  // [ceil(k/128)][m] for int8 and int4 weights
  const float* x;                      // [m][k] for float weights
  int64_t m;
  float* out;  // [m][out_stride]
  int64_t out_stride;
  bool accumulate;
};
using LinearKernel = void (*)(const LinearTask&, int64_t tile_begin, int64_t tile_end);

// Attention of `rows` query heads of one token over the keys and values of one KV head, positions 0..n_tokens-1.
// Softmax is online, one KV block after another: block maximum, exp, sum in sixteen lanes, rescaling. So a result does not
// depend on how tokens were grouped into calls.
struct AttentionTask {
  const float* const* k_blocks;  // per KV block: [64/16][head_dim][16]
  const float* const* v_blocks;  // per KV block: [64][padded head_dim]
  int64_t n_tokens;
  int64_t head_dim;
  int64_t rows;
  const float* q;  // [rows][head_dim]
  float scale;     // on the scores
  float* out;      // [rows][head_dim]
  float* scratch;  // attention_scratch(rows, head_dim) floats, 64-byte aligned
};
static inline int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
static inline int64_t attention_scratch(int64_t rows, int64_t head_dim) {
  return rows * (padded_head_dim(head_dim) + kKvBlock + 3);
}

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
  LinearKernel linear_float32, linear_bfloat16, linear_int8, linear_int4;
  // One row of k floats -> blocks at out[0], out[stride], ...; k is padded with zeros to whole blocks.
  void (*quantize)(const float* x, int64_t k, ActivationBlock* out, int64_t stride);
  void (*layer_norm)(const float* x, int64_t k, const float* weight, const float* bias, float epsilon, float* out);
  void (*activate)(Activation, float* x, int64_t n);  // in place
  void (*attention)(const AttentionTask&);
  // The cheapest int8 products of the set, on registers, in independent chains: what no matrix product can exceed.
  // Returns the number of multiply-adds done.
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

extern const Kernels kScalarKernels;
#if defined(GPTBIGCODE_CPU_X86)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvxVnniKernels;
extern const Kernels kAvx512VnniKernels;
#endif

}  // namespace gptbigcode
