// Keys and values of one sequence, in reference-counted blocks of 64 tokens. `fork` shares blocks, and a shared block is copied
// when one side writes to it. `truncate` drops blocks. Reuse of prefixes, parallel samples and undoing of speculation are made of
// these.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"

namespace gptbigcode {

KvDType parse_kv_dtype(const std::string& name);  // throws std::invalid_argument
const char* kv_dtype_name(KvDType dtype);
std::string kv_overflow(KvDType dtype);  // the message about a key or value that the type cannot hold

// A block holds one part per layer and KV head (kernels/kv_attention.h).
struct KVLayout {
  int64_t n_layer, n_kv_head, head_dim;
  KvDType dtype;
  size_t part_size() const { return kv_part(dtype, head_dim).size; }
  size_t part_offset(int64_t layer, int64_t head) const { return static_cast<size_t>(layer * n_kv_head + head) * part_size(); }
  size_t block_size() const { return part_offset(n_layer, 0); }  // bytes
};

class KVCache {
 public:
  explicit KVCache(const KVLayout& layout) : layout_(layout) {}

  int64_t size() const { return size_; }
  size_t nbytes() const { return blocks_.size() * layout_.block_size(); }
  KVCache fork() const { return *this; }
  void truncate(int64_t n_tokens);  // 0 <= n_tokens <= size()

  // Makes room for n_tokens more, in blocks that no other cache shares. May throw std::bad_alloc; then nothing has changed.
  void reserve(int64_t n_tokens);
  void grow(int64_t n_tokens) { size_ += n_tokens; }  // after reserve
  const KVLayout& layout() const { return layout_; }
  std::byte* block(int64_t index) const { return blocks_[static_cast<size_t>(index)]->data(); }

 private:
  using Block = AlignedBuffer<std::byte>;
  std::shared_ptr<Block> new_block() const;

  KVLayout layout_;
  int64_t size_ = 0;
  std::vector<std::shared_ptr<Block>> blocks_;
};

}  // namespace gptbigcode
