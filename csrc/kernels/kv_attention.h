// How keys and values lie in memory, and what attention over them is asked to compute.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gptbigcode {

inline constexpr int kKvBlock = 64;   // tokens of a block of the KV cache, and of one step of the softmax
inline constexpr int kKvChunk = 512;  // tokens whose attention makes one partial result

enum class KvDType { kFloat32, kBFloat16, kFloat16, kInt8 };
inline constexpr int kKvDTypes = 4;

static inline int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// A KV block has one part per layer and KV head. This says what lies where in a part: keys come first. Offsets are in bytes, and
// multiples of 64.
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

// Writes keys and values of one token, less their biases (null: none), into slot 0..63 of a part of a KV block.
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

}  // namespace gptbigcode
