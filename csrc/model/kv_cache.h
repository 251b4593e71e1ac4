// Keys and values of one sequence in reference-counted blocks of 64 tokens. Fork shares blocks, truncate drops them; a shared
// block is copied when one side writes to it. Prefix reuse, parallel samples and speculative rollback come from these two.
#pragma once

#include <memory>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"
#include "model/weights.h"

namespace gptbigcode {

// Per layer and KV head: keys [4][head_dim][16 tokens], then values [64 tokens][padded head_dim].
struct KVLayout {
  int64_t n_layer, n_kv_head, head_dim;
  explicit KVLayout(const ModelConfig& config);
  size_t keys_size() const { return static_cast<size_t>(kKvBlock * head_dim); }
  size_t values_size() const { return static_cast<size_t>(kKvBlock * padded_head_dim(head_dim)); }
  size_t block_size() const { return static_cast<size_t>(n_layer * n_kv_head) * (keys_size() + values_size()); }  // in floats
  size_t keys_offset(int64_t layer, int64_t head) const {
    return static_cast<size_t>(layer * n_kv_head + head) * (keys_size() + values_size());
  }
  size_t values_offset(int64_t layer, int64_t head) const { return keys_offset(layer, head) + keys_size(); }
};

class KVCache {
 public:
  explicit KVCache(const KVLayout& layout) : layout_(layout) {}

  int64_t size() const { return size_; }
  size_t nbytes() const { return blocks_.size() * layout_.block_size() * sizeof(float); }
  KVCache fork() const { return *this; }
  void truncate(int64_t n_tokens);  // 0 <= n_tokens <= size()

  // Makes room for n_tokens more that nobody else sees. May throw std::bad_alloc; then nothing has changed.
  void reserve(int64_t n_tokens);
  void grow(int64_t n_tokens) { size_ += n_tokens; }  // after reserve
  const KVLayout& layout() const { return layout_; }
  float* block(int64_t index) const { return blocks_[static_cast<size_t>(index)]->data(); }

  // k, v: [head_dim] for one position of a reserved block
  void write(int64_t layer, int64_t head, int64_t position, const float* k, const float* v) const;

 private:
  using Block = AlignedBuffer<float>;
  std::shared_ptr<Block> new_block() const;

  KVLayout layout_;
  int64_t size_ = 0;
  std::vector<std::shared_ptr<Block>> blocks_;
};

}  // namespace gptbigcode
