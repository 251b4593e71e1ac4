#include "model/kv_cache.h"

#include <cstring>
#include <stdexcept>

namespace gptbigcode {
namespace {

constexpr const char* kNames[kKvDTypes] = {"float32", "bfloat16", "float16", "int8"};  // in the order of KvDType

}  // namespace

KvDType parse_kv_dtype(const std::string& name) {
  for (int i = 0; i < kKvDTypes; ++i) {
    if (name == kNames[i]) return static_cast<KvDType>(i);
  }
  throw std::invalid_argument("unknown kv_dtype '" + name + "'; known: int8, bfloat16, float16, float32");
}

const char* kv_dtype_name(KvDType dtype) { return kNames[static_cast<int>(dtype)]; }

std::string kv_overflow(KvDType dtype) {
  return std::string("the model computes a key or a value that is larger than kv_dtype=\"") + kv_dtype_name(dtype) +
         "\" can hold; open it with kv_dtype=\"float32\"" + (dtype == KvDType::kFloat16 ? " or \"bfloat16\"" : "");
}

std::shared_ptr<KVCache::Block> KVCache::new_block() const {
  auto block = std::make_shared<Block>();
  block->reserve(layout_.block_size());
  // Zeros, because kernels load whole tiles; what lies beyond the last token is not used.
  std::memset(block->data(), 0, layout_.block_size());
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
      std::memcpy(copy->data(), last->data(), layout_.block_size());
      last = std::move(copy);
    }
  }
  while (blocks.size() < needed) blocks.push_back(new_block());
  blocks_ = std::move(blocks);
}

}  // namespace gptbigcode
