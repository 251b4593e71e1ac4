// The softmax, over a whole row or block after block, and the merging of partial results.
#pragma once

#include "kernels/generic/lanes.h"

namespace gptbigcode {
namespace {

// 2^x for x <= 0, exactly 1 at 0, relative error below 3e-6. Below -80 it stays at 2^-80, which is too small to change the sum of a
// softmax, since that contains a 1. x = n + r with |r| <= 1/2, and the polynomial is the best of its degree for 2^r with a constant
// of 1. Attention works in powers of two instead of e: log2(e) is a factor of the scores' scale.
template <Lanes V>
inline V exp2_of_negative(V x) {
  const V clamped = max(V::set1(-80.0f), x);
  const V t = add(clamped, V::set1(kPow2Magic));
  const V r = sub(clamped, sub(t, V::set1(kPow2Magic)));
  V p = V::set1(2 * 9.5828529447e-3f);  // twice the polynomial, since half_pow2 is half the power
  p = fma(p, r, V::set1(2 * 5.5906426162e-2f));
  p = fma(p, r, V::set1(2 * 2.4024099112e-1f));
  p = fma(p, r, V::set1(2 * 6.9312417507e-1f));
  p = fma(p, r, V::set1(2.0f));
  return mul(p, half_pow2(t));
}
constexpr float kLog2E = 1.44269504088896341f;
inline float score_scale(const AttentionTask& task) { return task.scale * kLog2E; }

// Elements begin..begin+15 of a head, less the bias if there is one; zeros after its end.
template <Lanes V>
inline V load_head(const float* x, const float* bias, int64_t begin, int64_t head_dim) {
  const int64_t count = head_dim - begin;
  const V v = count >= 16 ? V::load(x + begin) : load_first<V>(x + begin, count);
  if (bias == nullptr) return v;
  return sub(v, count >= 16 ? V::load(bias + begin) : load_first<V>(bias + begin, count));
}

// The state of the rows in a chunk.
struct RowStates {
  float* values;  // [rows][width]
  float* sums;    // [rows][16]
  float* maxima;  // [rows]
  int64_t width;
  float* values_of(int64_t row) const { return values + row * width; }
};

// What a group of rows sees of a KV block.
struct View {
  const std::byte* part;
  int tiles;             // of 16 tokens
  const float* visible;  // how many tokens each row sees, if one sees only some of them
  int64_t ahead;         // bytes from here to the next block, which is prefetched meanwhile; 0: it is not

  // How many tokens row r sees: always the first ones.
  template <bool kMasked>
  int seen_by(int r) const {
    return kMasked && visible[r] < kKvBlock ? static_cast<int>(visible[r]) : kKvBlock;
  }
  // Lane by lane x, or `unseen` where row r does not see the token of the lane.
  template <bool kMasked, Lanes V>
  V seen(int r, int tile, V x, float unseen) const {
    return kMasked ? select_less(lane_numbers<V>(), V::set1(visible[r] - static_cast<float>(tile * 16)), x, V::set1(unseen)) : x;
  }
};

// The softmax of some rows from `row` on, over their scores of one KV block and not yet divided by the sum. keep(r, tile, p) gets
// p = 2^(score - maximum) for sixteen tokens at a time. Updates the rows' maxima and sums. rescale[r] is the factor that brings
// what was summed before to the new maximum.
template <Lanes V, int kRows, bool kMasked, class Keep>
inline void online_softmax(const float (*scores)[kKvBlock], const View& view, const RowStates& state, int64_t row, float* rescale,
                           Keep keep) {
  const int tiles = kMasked ? view.tiles : kKvBlock / 16;
  const auto seen = [&](int r, int tile, V x, float unseen) { return view.seen<kMasked>(r, tile, x, unseen); };
  const float lowest = -__builtin_inff();
  static_assert(kRows <= 16);
  alignas(64) float maxima[16], factors[16] = {};
  V largest[kRows];
  for (int r = 0; r < kRows; ++r) {  // three loops over the rows: the latency of one row hides behind the work on others
    largest[r] = seen(r, 0, V::load(scores[r]), lowest);
    for (int tile = 1; tile < tiles; ++tile) largest[r] = max(largest[r], seen(r, tile, V::load(scores[r] + tile * 16), lowest));
  }
  reduce_max_of_rows<kRows>(largest, maxima);
  for (int r = 0; r < kRows; ++r) {
    const float old = state.maxima[row + r];
    maxima[r] = old > maxima[r] ? old : maxima[r];
    factors[r] = old - maxima[r];
    state.maxima[row + r] = maxima[r];
  }
  store(factors, exp2_of_negative(V::load(factors)));
  for (int r = 0; r < kRows; ++r) rescale[r] = factors[r];
  for (int r = 0; r < kRows; ++r) {
    V sum = mul(V::load(state.sums + (row + r) * 16), V::set1(rescale[r]));
    for (int tile = 0; tile < tiles; ++tile) {
      const V p = seen(r, tile, exp2_of_negative(sub(V::load(scores[r] + tile * 16), V::set1(maxima[r]))), 0.0f);
      sum = add(sum, p);
      keep(r, tile, p);
    }
    store(state.sums + (row + r) * 16, sum);
  }
}

// Merges one more chunk into the total.
template <Lanes V>
inline void merge_partial(float* total, const float* values, float maximum, float sum, int64_t width) {
  const float new_maximum = total[width] > maximum ? total[width] : maximum;
  const V old_factor = exp2_of_negative(V::set1(total[width] - new_maximum)),
          factor = exp2_of_negative(V::set1(maximum - new_maximum));
  for (int64_t d = 0; d < width; d += 16) store(total + d, fma(V::load(values + d), factor, mul(V::load(total + d), old_factor)));
  alignas(64) float sums[16];
  store(sums, fma(V::set1(sum), factor, mul(V::set1(total[width + 1]), old_factor)));
  total[width] = new_maximum;
  total[width + 1] = sums[0];
}

template <Lanes V>
void merge_attention(float* partials, int64_t count, int64_t head_dim, const float* bias, float* out) {
  const int64_t width = padded_head_dim(head_dim);
  for (int64_t i = 1; i < count; ++i) {
    const float* next = partials + i * partial_size(head_dim);
    merge_partial<V>(partials, next, next[width], next[width + 1], width);
  }
  const V inverse = V::set1(1.0f / partials[width + 1]);
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t lanes = head_dim - d < 16 ? head_dim - d : 16;
    const V addend = bias == nullptr ? V::set1(0.0f) : load_first<V>(bias + d, lanes);
    store_first(out + d, fma(V::load(partials + d), inverse, addend), lanes);
  }
}

template <Lanes V>
void softmax(float* x, int64_t n) {
  const auto count = [&](int64_t i) { return n - i < 16 ? n - i : 16; };
  // Beyond the end a vector repeats the first element, which changes no maximum.
  V largest = V::set1(x[0]);
  for (int64_t i = 0; i < n; i += 16) {
    const V lanes = V::set1(static_cast<float>(count(i)));
    largest = max(largest, select_less(lane_numbers<V>(), lanes, load_first<V>(x + i, count(i)), V::set1(x[0])));
  }
  const V maximum = V::set1(reduce_max(largest));
  V sum = V::set1(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const V p = exp2_of_negative(mul(sub(load_first<V>(x + i, count(i)), maximum), V::set1(kLog2E)));
    sum = add(sum, select_less(lane_numbers<V>(), V::set1(static_cast<float>(count(i))), p, V::set1(0.0f)));
    store_first(x + i, p, count(i));
  }
  const V inverse = V::set1(1.0f / reduce_add(sum));
  for (int64_t i = 0; i < n; i += 16) store_first(x + i, mul(load_first<V>(x + i, count(i)), inverse), count(i));
}

}  // namespace
}  // namespace gptbigcode
