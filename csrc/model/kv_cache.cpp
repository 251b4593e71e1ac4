#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace gptbigcode {

KVLayout::KVLayout(const ModelConfig& config) : n_layer(config.n_layer), n_kv_head(config.n_kv_head), head_dim(config.head_dim()) {}

std::shared_ptr<KVCache::Block> KVCache::new_block() const {
  auto block = std::make_shared<Block>();
  block->reserve(layout_.block_size());
  // Kernels load whole tiles; what lies beyond the last token must be finite.
  std::memset(block->data(), 0, layout_.block_size() * sizeof(float));
  return block;
}

void KVCache::truncate(int64_t n_tokens) {
  size_ = n_tokens;
  blocks_.resize(static_cast<size_t>((n_tokens + kKvBlock - 1) / kKvBlock));
}

void KVCache::reserve(int64_t n_tokens) {
  const auto needed = static_cast<size_t>((size_ + n_tokens + kKvBlock - 1) / kKvBlock);
  std::vector<std::shared_ptr<Block>> blocks = blocks_;
  if (n_tokens > 0 && size_ % kKvBlock != 0) {
    auto& last = blocks[static_cast<size_t>(size_ / kKvBlock)];
    if (last.use_count() > 2) {  // ours is referred to by blocks_ and by the copy above
      auto copy = std::make_shared<Block>();
      copy->reserve(layout_.block_size());
      std::memcpy(copy->data(), last->data(), layout_.block_size() * sizeof(float));
      last = std::move(copy);
    }
  }
  while (blocks.size() < needed) blocks.push_back(new_block());
  blocks_ = std::move(blocks);
}

void KVCache::write(int64_t layer, int64_t head, int64_t position, const float* k, const float* v) const {
  float* data = block(position / kKvBlock);
  const int64_t slot = position % kKvBlock, dim = layout_.head_dim, width = padded_head_dim(dim);
  float* keys = data + layout_.keys_offset(layer, head) + static_cast<size_t>(slot / 16 * dim * 16 + slot % 16);
  for (int64_t i = 0; i < dim; ++i) keys[i * 16] = k[i];
  std::copy_n(v, dim, data + layout_.values_offset(layer, head) + static_cast<size_t>(slot * width));
}

}  // namespace gptbigcode
