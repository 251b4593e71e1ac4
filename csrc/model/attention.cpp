#include "model/attention.h"

#include <algorithm>
#include <cstring>

#include "base/float_bits.h"

namespace gptbigcode {
namespace {

constexpr int64_t kItemRows = 128;  // rows that share every load of keys and values; their state fits the second-level cache
constexpr int64_t kSplitRows = 32;  // up to this many tokens, the chunks of their caches are items of their own
constexpr int64_t kPartHeads = 4;   // fewer heads would waste the registers of a kernel

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t chunks_seen(int64_t position) { return position / kKvChunk + 1; }

// Element d of the keys of sixteen tokens, those of a tile, from a part of a KV block (kernels/kv_attention.h).
void load_keys(const std::byte* part, KvDType dtype, int64_t head_dim, int64_t tile, int64_t d, float* out) {
  constexpr int64_t kTokens = 16;
  const int64_t element = (tile * head_dim + d) * kTokens;
  for (int64_t t = 0; t < kTokens; ++t) {
    uint16_t bits = 0;
    switch (dtype) {
      case KvDType::kFloat32: std::memcpy(out + t, part + (element + t) * 4, 4); break;
      case KvDType::kBFloat16:
        std::memcpy(&bits, part + (element + t) * 2, 2);
        out[t] = from_bfloat16(bits);
        break;
      case KvDType::kFloat16:
        std::memcpy(&bits, part + (element + t) * 2, 2);
        out[t] = from_float16(bits);
        break;
      case KvDType::kInt8: {
        float scale;
        std::memcpy(&scale, part + kv_part(dtype, head_dim).key_scales + static_cast<size_t>(tile * kTokens + t) * 4, 4);
        const int64_t quads = (head_dim + 3) / 4;
        const int code = std::to_integer<int>(part[((tile * quads + d / 4) * kTokens + t) * 4 + d % 4]);
        out[t] = scale * static_cast<float>(code - 128);
        break;
      }
    }
  }
}

}  // namespace

Attention::Attention(const Kernels& kernels, const KVLayout& layout, int64_t n_head, float scale, int num_threads)
    : kernels_(kernels),
      layout_(layout),
      qkv_{n_head, layout.n_kv_head, layout.head_dim},
      scale_(scale),
      num_threads_(num_threads),
      scratch_bytes_(static_cast<size_t>(ceil_div(attention_scratch(kItemRows, layout.head_dim), 64) * 64)) {
  scratch_.reserve(scratch_bytes_ * static_cast<size_t>(num_threads));
}

void Attention::plan(const std::vector<Row>& rows) {
  rows_ = rows;
  items_.clear();
  blocks_.clear();
  const auto m = static_cast<int64_t>(rows.size());
  struct Sequence {
    int64_t row, tokens;
    size_t first_block;
  };
  std::vector<Sequence> sequences;
  int64_t most_chunks = 1;
  for (int64_t row = 0; row < m;) {
    const Row& first = rows[static_cast<size_t>(row)];
    int64_t tokens = 1;
    while (row + tokens < m && rows[static_cast<size_t>(row + tokens)].cache == first.cache) ++tokens;
    sequences.push_back({row, tokens, blocks_.size()});
    const int64_t last = first.position + tokens - 1;
    for (int64_t b = 0; b <= last / kKvBlock; ++b) blocks_.push_back(first.cache->block(b));
    most_chunks = std::max(most_chunks, chunks_seen(last));
    row += tokens;
  }

  // If there are few tokens, every chunk of a cache is an item of its own; if that makes too few items, heads are divided as well.
  // If there are many tokens, the items are groups of tokens, which walk the whole cache.
  const bool split = m <= kSplitRows;
  chunks_ = split ? most_chunks : 1;
  int64_t max_tokens = std::max<int64_t>(1, kItemRows / group()), parts = ceil_div(group(), kItemRows);
  if (split) {
    int64_t items = 0;
    for (const Sequence& s : sequences) {
      items += ceil_div(s.tokens, max_tokens) * layout_.n_kv_head *
               chunks_seen(rows[static_cast<size_t>(s.row)].position + s.tokens - 1);
    }
    parts = std::max(parts, std::min(ceil_div(2 * num_threads_, items), ceil_div(group(), kPartHeads)));
  } else {
    max_tokens = std::clamp<int64_t>(m * layout_.n_kv_head / (4 * num_threads_), 1, max_tokens);
  }
  for (const Sequence& s : sequences) {
    add_items(s.row, s.tokens, max_tokens, parts, split, blocks_.data() + s.first_block);
  }
  std::stable_sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return a.cost > b.cost; });
  partials_.reserve(static_cast<size_t>(m * qkv_.n_head * chunks_ * partial_size(layout_.head_dim)));
}

void Attention::add_items(int64_t row, int64_t tokens, int64_t max_tokens, int64_t parts, bool split,
                          const std::byte* const* blocks) {
  const int64_t part_heads = ceil_div(group(), parts);
  for (const int64_t end = row + tokens; row < end; row += max_tokens) {
    const int64_t count = std::min(max_tokens, end - row);
    const int64_t seen = rows_[static_cast<size_t>(row + count - 1)].position + 1, chunks = chunks_seen(seen - 1);
    for (int64_t kv_head = 0; kv_head < layout_.n_kv_head; ++kv_head) {
      for (int64_t chunk = 0; chunk < chunks; chunk += split ? 1 : chunks) {
        const int64_t walked = split ? std::min<int64_t>(kKvChunk, seen - chunk * kKvChunk) : seen;
        for (int64_t head = 0; head < group(); head += part_heads) {
          const int64_t heads = std::min(part_heads, group() - head);
          items_.push_back({row, count, kv_head, kv_head * group() + head, heads, chunk, split ? chunk + 1 : chunks, blocks,
                            walked * count * heads});
        }
      }
    }
  }
}

bool Attention::write(int64_t layer, int64_t row, const float* qkv, const float* bias) const {
  const Row& r = rows_[static_cast<size_t>(row)];
  const auto write_kv = kernels_.write_kv[static_cast<int>(layout_.dtype)];
  bool fits = true;
  for (int64_t head = 0; head < layout_.n_kv_head; ++head) {
    const int64_t key = qkv_.key(head), value = qkv_.value(head);
    fits &= write_kv({
        .part = r.cache->block(r.position / kKvBlock) + layout_.part_offset(layer, head),
        .slot = r.position % kKvBlock,
        .head_dim = layout_.head_dim,
        .key = qkv + key,
        .value = qkv + value,
        .key_bias = bias == nullptr ? nullptr : bias + key,
        .value_bias = bias == nullptr ? nullptr : bias + value,
    });
  }
  return fits;
}

void Attention::attend(int64_t layer, const float* qkv, int64_t index, int thread) const {
  const auto attention = kernels_.attention[static_cast<int>(layout_.dtype)];
  const Item& item = items_[static_cast<size_t>(index)];
  attention({
      .blocks = item.blocks,
      .part = layout_.part_offset(layer, item.kv_head),
      .head_dim = layout_.head_dim,
      .tokens = item.tokens,
      .heads = item.heads,
      .position = rows_[static_cast<size_t>(item.row)].position,
      .chunk_begin = item.chunk_begin,
      .chunk_end = item.chunk_end,
      .q = qkv + item.row * qkv_.width() + qkv_.query(item.first_head),
      .q_stride = qkv_.width(),
      .scale = scale_,
      .partials = partial(item.row, item.first_head, chunks_ == 1 ? 0 : item.chunk_begin),
      .token_stride = partial(1, 0, 0) - partial(0, 0, 0),
      .head_stride = partial(0, 1, 0) - partial(0, 0, 0),
      .scratch = scratch(thread),
  });
}

void Attention::finish(int64_t row, const float* bias, float* out) const {
  const int64_t chunks = chunks_ == 1 ? 1 : chunks_seen(rows_[static_cast<size_t>(row)].position);
  for (int64_t head = 0; head < qkv_.n_head; ++head) {
    const float* value_bias = bias == nullptr ? nullptr : bias + qkv_.value(qkv_.kv_head_of(head));
    kernels_.merge_attention(partial(row, head, 0), chunks, layout_.head_dim, value_bias, out + head * layout_.head_dim);
  }
}

void Attention::probabilities(int64_t layer, int64_t row, const float* q, int64_t keys, float* out, int64_t stride) const {
  const Row& r = rows_[static_cast<size_t>(row)];
  const int64_t head_dim = layout_.head_dim, seen = r.position + 1;
  for (int64_t head = 0; head < qkv_.n_head; ++head) {
    float* scores = out + head * stride;
    for (int64_t begin = 0; begin < seen; begin += 16) {
      const std::byte* part = r.cache->block(begin / kKvBlock) + layout_.part_offset(layer, qkv_.kv_head_of(head));
      float sums[16] = {}, elements[16];
      for (int64_t d = 0; d < head_dim; ++d) {
        load_keys(part, layout_.dtype, head_dim, begin % kKvBlock / 16, d, elements);
        for (int t = 0; t < 16; ++t) sums[t] += q[qkv_.query(head) + d] * elements[t];
      }
      for (int64_t t = 0; t < std::min<int64_t>(16, seen - begin); ++t) scores[begin + t] = sums[t] * scale_;
    }
    kernels_.softmax(scores, seen);
    std::fill(scores + seen, scores + keys, 0.0f);
  }
}

}  // namespace gptbigcode
