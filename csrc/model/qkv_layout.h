// The order of what c_attn computes for a token: the queries of all heads, then the keys of all KV heads, then their values.
#pragma once

#include <cstdint>

namespace gptbigcode {

struct QkvLayout {
  int64_t n_head, n_kv_head, head_dim;

  // Where a head begins. Query heads that follow each other share a KV head.
  int64_t query(int64_t head) const { return head * head_dim; }
  int64_t key(int64_t kv_head) const { return (n_head + kv_head) * head_dim; }
  int64_t value(int64_t kv_head) const { return (n_head + n_kv_head + kv_head) * head_dim; }
  int64_t width() const { return value(n_kv_head); }

  int64_t heads_per_kv_head() const { return n_head / n_kv_head; }
  int64_t kv_head_of(int64_t head) const { return head / heads_per_kv_head(); }
};

}  // namespace gptbigcode
