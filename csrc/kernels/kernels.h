// The record of a kernel set: what every instruction set implements. The scalar set defines the arithmetic; every other set
// returns the same bits. Kernels never allocate, throw or synchronise; their callers have checked every size.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gptbigcode {

inline constexpr int kTileRows = 16;  // output features of a tile, and lanes of every reduction
inline constexpr int kBlock = 128;    // input features that share a float scale of the activations
inline constexpr int kGroup = 16;     // input features whose codes lie together in a block, and whose products fit 16 bits
inline constexpr int kKvBlock = 64;   // tokens of a block of the KV cache, and of one step of the softmax
inline constexpr int kKvChunk = 512;  // tokens whose attention makes one partial result
inline constexpr size_t kInt8BlockBytes = kTileRows * kBlock + kTileRows * 2;
inline constexpr size_t kInt4BlockBytes = kTileRows * kBlock / 2 + kTileRows;
inline constexpr int kInt6Group = 32;                                   // input features that share a multiplier
inline constexpr size_t kInt6Multipliers = kTileRows * kBlock * 6 / 8;  // where they are in a block
inline constexpr size_t kInt6BlockBytes = kInt6Multipliers + kTileRows * kBlock / kInt6Group;
inline constexpr size_t kRowScaleBytes = kTileRows * 4;  // of int4 and int6, after the blocks of a tile

enum class DType { kFloat32, kBFloat16, kInt8, kInt6, kInt4 };
static inline bool is_quantized(DType dtype) { return dtype != DType::kFloat32 && dtype != DType::kBFloat16; }

// int4: weight = row scale * multiplier * (codebook[code] + offset). A byte per row and block holds offset + 1 in its two low
// bits and the multiplier, -31..31, in the six above. Fitted to weights of trained models and to Gaussian and heavy-tailed ones
// (docs/quantization.md). |codebook + offset| <= 16, so that sixteen products fit 16 bits: 16 * 16 * 127 = 32512.
inline constexpr int8_t kInt4Codebook[16] = {-15, -13, -10, -8, -6, -4, -3, -1, 0, 1, 3, 5, 7, 9, 11, 14};
inline constexpr int kInt4Zero = 16;  // added to codebook entries where an instruction wants unsigned bytes
inline constexpr int kInt4MaxMultiplier = 31;
inline constexpr int kInt4MinOffset = -1, kInt4MaxOffset = 2;

// int6: weight = row scale * multiplier * code, codes -32..31, stored as code + 32; |code| * 127 * 16 / 2 fits 16 bits.
inline constexpr int kInt6Zero = 32, kInt6MaxMultiplier = 127;

// The low and the high nibbles of a byte are codes of columns i and i + 8 of sixteen; int6 has the two bits above in another plane.
static inline int nibble_of(const std::byte* block, int row, int column) {
  const auto pair = std::to_integer<int>(block[column / 16 * 128 + column % 8 / 4 * 64 + row * 4 + column % 4]);
  return column % 16 < 8 ? pair & 15 : pair >> 4;
}
static inline int int6_code(const std::byte* block, int row, int column) {
  const auto high = std::to_integer<int>(block[kTileRows * kBlock / 2 + column / 16 * 64 + row * 4 + column % 4]);
  return (nibble_of(block, row, column) | (high >> column % 16 / 4 * 2 & 3) << 4) - kInt6Zero;
}

// A block of 128 activations of one token: value = scale * q. Kernels with unsigned weight codes subtract zero * sum of q:
struct alignas(64) ActivationBlock {  // no load of codes crosses a cache line
  int8_t q[kBlock];                   // -127..127
  int32_t starts[kBlock / kGroup];    // what the sums of int4 and int6 start at, in the kernel set's own form (sum_codes)
  float scale;
  int32_t negative_sum;  // minus the sum of all 128
};
static_assert(sizeof(ActivationBlock) == 192);

// out[m][n] = bias[n] + sum over k of x[m][k] * weight[n][k], added to out if accumulate is set; for n in the given tiles.
// int8: float accumulator, starting at the bias; block after block, fma(float(integer sum), row scale * activation scale, .).
// int4, int6: starting at zero; block after block, fma(float(integer sum), activation scale, .); then fma(., row scale, bias).
// Float: starting at the bias; fma after fma in the order of k.
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

// ---------------------------------------------------------------- the KV cache and attention over it

enum class KvDType { kFloat32, kBFloat16, kFloat16, kInt8 };
inline constexpr int kKvDTypes = 4;

static inline int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Where the part of a KV block that belongs to one layer and KV head keeps what; keys come first. Offsets are bytes, multiples
// of 64.
//   float: keys [64/16][head_dim][16 tokens], values [ceil(head_dim/16)][64 tokens][16 dims]
//   int8:  keys [64/16][ceil(head_dim/4)][16 tokens][4 dims], code + 128; values [ceil(head_dim/16)][64/4][16 dims][4 tokens];
//          and for both a float scale per token, the absolute maximum of its elements / 127
struct KvPart {
  size_t key_scales, values, value_scales, size;
};
static inline KvPart kv_part(KvDType dtype, int64_t head_dim) {
  const auto narrow = static_cast<size_t>(kKvBlock * (dtype == KvDType::kInt8 ? (head_dim + 3) / 4 * 4 : head_dim));
  const auto wide = static_cast<size_t>(kKvBlock * padded_head_dim(head_dim));
  const size_t item = dtype == KvDType::kInt8 ? 1 : dtype == KvDType::kFloat32 ? 4 : 2;
  const size_t scales = dtype == KvDType::kInt8 ? kKvBlock * sizeof(float) : 0;
  return {narrow * item, narrow * item + scales, (narrow + wide) * item + scales, (narrow + wide) * item + 2 * scales};
}

// Keys and values of one token, less what the biases say (null: no bias), into slot 0..63 of a part of a KV block.
struct KvWrite {
  std::byte* part;
  int64_t slot;
  int64_t head_dim;
  const float *key, *value;            // [head_dim]
  const float *key_bias, *value_bias;  // [head_dim] or null
};

// Attention of some query heads of consecutive tokens of one sequence over one KV head, causal: the token at position p sees
// positions 0..p. A row is a token and a head.
//
// The positions are cut into chunks of 512, always at the same places. In a chunk the softmax is online: one KV block after
// another, with a running maximum, sixteen sums and the values so far. The results of the chunks are merged from the first to
// the last. So a result does not depend on how tokens were grouped into calls, or chunks among threads.
struct AttentionTask {
  const std::byte* const* blocks;  // every KV block of the sequence
  size_t part;                     // offset of this layer's and KV head's part in each
  int64_t head_dim;
  int64_t tokens, heads;
  int64_t position;                // of the first token
  int64_t chunk_begin, chunk_end;  // one chunk, or all from 0 on; merged
  const float* q;                  // token t, head h: q + t * q_stride + h * head_dim
  int64_t q_stride;
  float scale;      // on the scores
  float* partials;  // token t, head h: partials + t * token_stride + h * head_stride; untouched if it sees nothing
  int64_t token_stride, head_stride;
  std::byte* scratch;  // attention_scratch(tokens * heads, head_dim) bytes, 64-byte aligned
};
using AttentionKernel = void (*)(const AttentionTask&);
// A partial result: values [padded head_dim], not yet divided by the sum; maximum; sum.
static inline int64_t partial_size(int64_t head_dim) { return padded_head_dim(head_dim) + 16; }
static inline int64_t attention_scratch(int64_t rows, int64_t head_dim) {
  constexpr int64_t kQueryBytes = 2, kRowBytes = 16 * 4 + 3 * 4;  // widened codes; sixteen sums, maximum, scale, offset
  return rows * (padded_head_dim(head_dim) * (4 + kQueryBytes) + kRowBytes) + 4 * 64;
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

// What is made of the error of quantising a column (GPTQ, arXiv:2210.17323). The columns are cut into spans. Row i has `span`
// floats: at the place of a column j > i of i's span what the error is multiplied with to be added to j, and at i's own place the
// weight of an error in i.
struct ErrorFeedback {
  const float* rows = nullptr;  // [k][span]; null: errors stay
  int64_t span = 1, k = 0;

  const float* row(int64_t i) const { return rows + i * span; }
  float importance(int64_t i) const { return row(i)[i % span]; }
  int64_t span_end(int64_t i) const { return i / span * span + span < k ? i / span * span + span : k; }
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
  // Indexed by KvDType.
  // Whether every number fits the type: a finite one stays finite.
  bool (*write_kv[kKvDTypes])(const KvWrite&);
  AttentionKernel attention[kKvDTypes];
  // out[head_dim] = the attention that `count` partial results, chunk after chunk, make together, plus the bias (null: none).
  void (*merge_attention)(float* partials, int64_t count, int64_t head_dim, const float* bias, float* out);
  void (*softmax)(float* x, int64_t n);  // in place, n > 0
  // The largest of some floats, NaNs aside, read as 1, 2, 4 or 8 streams side by side: what nothing that reads can exceed.
  float (*read)(const float* data, int64_t count, int streams);
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
extern const Kernels kAvx512AmxKernels;
#endif

}  // namespace gptbigcode
