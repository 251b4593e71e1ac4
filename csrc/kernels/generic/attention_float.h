// Attention over keys and values in float32, bfloat16 or float16. A score is computed fma after fma in the order of the dimensions.
// For the values, the sum so far is rescaled, and then follows fma after fma in the order of the tokens.
#pragma once

#include "base/float_bits.h"
#include "kernels/generic/softmax.h"

namespace gptbigcode {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
template <Lanes V>
inline V load_element(const float* p) {
  return V::load(p);
}
template <Lanes V>
inline V load_element(const BFloat16* p) {
  return V::load_bf16(&p->bits);
}
template <Lanes V>
inline V load_element(const Float16* p) {
  return V::load_f16(&p->bits);
}
// False if x is finite and the element that is made of it is not.
inline bool store_element(float* p, float x) {
  *p = x;
  return true;
}
inline bool store_element(BFloat16* p, float x) {
  p->bits = to_bfloat16(x);
  return (p->bits & 0x7fffu) != 0x7f80u || is_infinite(x);
}
inline bool store_element(Float16* p, float x) {
  p->bits = to_float16(x);
  return (p->bits & 0x7fffu) != 0x7c00u || is_infinite(x);
}

template <class Element>
bool write_kv_float(const KvWrite& kv) {
  bool fits = true;
  const int64_t dim = kv.head_dim;
  auto* keys = reinterpret_cast<Element*>(kv.part) + kv.slot / 16 * dim * 16 + kv.slot % 16;
  for (int64_t i = 0; i < dim; ++i) {
    fits &= store_element(keys + i * 16, kv.key_bias == nullptr ? kv.key[i] : kv.key[i] - kv.key_bias[i]);
  }
  auto* values = reinterpret_cast<Element*>(kv.part) + kKvBlock * dim + kv.slot * 16;
  for (int64_t i = 0; i < dim; ++i) {
    const float value = kv.value_bias == nullptr ? kv.value[i] : kv.value[i] - kv.value_bias[i];
    fits &= store_element(values + i / 16 * kKvBlock * 16 + i % 16, value);
  }
  return fits;
}

// kMostRows: how many rows' sums fit the registers at once, a power of two.
template <Lanes V, class Element, int kMostRows>
struct FloatKv {
  using Floats = V;
  static constexpr int kRowsAtOnce = kMostRows;
  const AttentionTask& task;
  FloatKv(const AttentionTask& t, float* /*scratch*/) : task(t) {}

  template <int kRows, bool kMasked>
  void rows_of_block(const View& view, const RowStates& state, int64_t row) const {
    const int64_t dim = task.head_dim;
    const int tiles = kMasked ? view.tiles : kKvBlock / 16;
    const auto* keys = reinterpret_cast<const Element*>(view.part);
    const Element* values = keys + kKvBlock * dim;
    const float* q[kRows];
    for (int r = 0; r < kRows; ++r) {
      q[r] = task.q + (row + r) / task.heads * task.q_stride + (row + r) % task.heads * dim;
    }
    alignas(64) float scores[kRows][kKvBlock];
    for (int tile = 0; tile < tiles; ++tile) {
      V sum[kRows];
      for (int r = 0; r < kRows; ++r) sum[r] = V::set1(0.0f);
      for (int64_t i = 0; i < dim; ++i) {
        const V key = load_element<V>(keys + (tile * dim + i) * 16);
        for (int r = 0; r < kRows; ++r) sum[r] = fma(V::set1(q[r][i]), key, sum[r]);
      }
      for (int r = 0; r < kRows; ++r) store(scores[r] + tile * 16, mul(sum[r], V::set1(score_scale(task))));
    }
    float rescale[kRows];
    online_softmax<V, kRows, kMasked>(scores, view, state, row, rescale,
                                      [&](int r, int tile, V p) { store(scores[r] + tile * 16, p); });
    const int seen_by_all = view.seen_by<kMasked>(0), seen_by_some = view.seen_by<kMasked>(kRows - 1);  // the later, the more
    for (int64_t d = 0; d < state.width; d += 16) {
      const Element* value = values + d * kKvBlock;
      V sum[kRows];
      for (int r = 0; r < kRows; ++r) sum[r] = mul(V::load(state.values_of(row + r) + d), V::set1(rescale[r]));
      for (int t = 0; t < seen_by_all; ++t) {
        const V v = load_element<V>(value + t * 16);
        for (int r = 0; r < kRows; ++r) sum[r] = fma(V::set1(scores[r][t]), v, sum[r]);
      }
      if constexpr (kMasked) {
        for (int t = seen_by_all; t < seen_by_some; ++t) {
          const V v = load_element<V>(value + t * 16);
          for (int r = 1; r < kRows; ++r) {
            if (t < view.seen_by<true>(r)) sum[r] = fma(V::set1(scores[r][t]), v, sum[r]);
          }
        }
      }
      for (int r = 0; r < kRows; ++r) store(state.values_of(row + r) + d, sum[r]);
    }
  }
};

}  // namespace
}  // namespace gptbigcode
