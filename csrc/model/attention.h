// Attention of a micro-batch. Cuts the work into items, each done by one thread, and keeps their partial results.
//
// For every layer, after c_attn: `write` every row, then `attend` every item, then `finish` every row. Rows are the new tokens
// of the micro-batch, those of one sequence together and in order.
#pragma once

#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"
#include "model/kv_cache.h"
#include "model/qkv_layout.h"

namespace gptbigcode {

class Attention {
 public:
  struct Row {
    const KVCache* cache;
    int64_t position;  // of its token
  };
  // scale: on the scores
  Attention(const Kernels& kernels, const KVLayout& layout, int64_t n_head, float scale, int num_threads);

  // Cuts the work of these rows into items. Their caches must have room for them. May throw std::bad_alloc.
  void plan(const std::vector<Row>& rows);

  // qkv: what c_attn computed for the row, as in QkvLayout; bias: c_attn's, in the same order, or null. Keys and values are stored
  // without their bias. The bias of the keys adds the same number to all scores of a query, which does not change the softmax;
  // `finish` adds the bias of the values. Returns whether all keys and values fit the type of the cache.
  bool write(int64_t layer, int64_t row, const float* qkv, const float* bias) const;
  int64_t items() const { return static_cast<int64_t>(items_.size()); }
  // index: of the item; qkv: of all rows; thread: whose scratch memory to use
  void attend(int64_t layer, const float* qkv, int64_t index, int thread) const;
  // out: [n_embd]
  void finish(int64_t row, const float* bias, float* out) const;
  // The softmax of a row's scores over `keys` tokens, with 0 for tokens after the row; that of head h goes to out + h * stride. It
  // is computed anew, from the same queries and stored keys, because `attend` never has all of it at once. The queries are not
  // rounded.
  void probabilities(int64_t layer, int64_t row, const float* q, int64_t keys, float* out, int64_t stride) const;

 private:
  // Consecutive tokens of a sequence, some query heads of one KV head, and one chunk of its cache or all of it.
  struct Item {
    int64_t row, tokens;
    int64_t kv_head, first_head, heads;
    int64_t chunk_begin, chunk_end;
    const std::byte* const* blocks;
    int64_t cost;
  };
  void add_items(int64_t row, int64_t tokens, int64_t max_tokens, int64_t parts, bool split, const std::byte* const* blocks);
  float* partial(int64_t row, int64_t head, int64_t chunk) const {
    return partials_.data() + ((row * qkv_.n_head + head) * chunks_ + chunk) * partial_size(layout_.head_dim);
  }
  std::byte* scratch(int thread) const { return scratch_.data() + static_cast<size_t>(thread) * scratch_bytes_; }
  int64_t group() const { return qkv_.heads_per_kv_head(); }

  const Kernels& kernels_;
  const KVLayout layout_;
  const QkvLayout qkv_;
  const float scale_;
  const int num_threads_;
  const size_t scratch_bytes_;  // of a thread

  std::vector<Row> rows_;
  std::vector<Item> items_;
  std::vector<const std::byte*> blocks_;  // of every sequence, one after another
  int64_t chunks_ = 1;                    // partial results of a row and head: one, or one per chunk
  AlignedBuffer<float> partials_;         // [rows][n_head][chunks][partial_size]
  AlignedBuffer<std::byte> scratch_;      // [threads]
};

}  // namespace gptbigcode
