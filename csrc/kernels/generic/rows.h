// Kernels that work on a row of activations: LayerNorm and quantising.
#pragma once

#include "kernels/generic/lanes.h"

namespace gptbigcode {
namespace {

// Two passes (mean, then variance), each one sum of sixteen lanes.
template <Lanes V>
void layer_norm(const float* x, int64_t k, const float* weight, const float* bias, float epsilon, float* out) {
  const int64_t whole = k / 16 * 16, rest = k - whole;
  V sum = V::set1(0.0f);
  for (int64_t i = 0; i < whole; i += 16) sum = add(sum, V::load(x + i));
  if (rest > 0) sum = add(sum, load_first<V>(x + whole, rest));
  const V mean = V::set1(reduce_add(sum) / static_cast<float>(k));
  V squares = V::set1(0.0f);
  for (int64_t i = 0; i < whole; i += 16) {
    const V d = sub(V::load(x + i), mean);
    squares = fma(d, d, squares);
  }
  if (rest > 0) {
    alignas(64) float lanes[16] = {};
    store_first(lanes, sub(load_first<V>(x + whole, rest), mean), rest);
    const V d = V::load(lanes);
    squares = fma(d, d, squares);
  }
  const float variance = reduce_add(squares) / static_cast<float>(k);
  const V inverse = V::set1(1.0f / __builtin_sqrtf(variance + epsilon));
  for (int64_t i = 0; i < whole; i += 16) {
    store(out + i, fma(mul(sub(V::load(x + i), mean), inverse), V::load(weight + i), V::load(bias + i)));
  }
  if (rest > 0) {
    const V normed = mul(sub(load_first<V>(x + whole, rest), mean), inverse);
    store_first(out + whole, fma(normed, load_first<V>(weight + whole, rest), load_first<V>(bias + whole, rest)), rest);
  }
}

// The largest magnitude of a block becomes 127; codes are rounded to nearest even. A block that holds NaN or infinity has that as
// its scale, and codes without a meaning: whatever is computed with it is NaN.
template <class Set>
void quantize(const float* x, int64_t k, ActivationBlock* out, int64_t stride) {
  using V = Set::Floats;
  ActivationBlock* first = out;
  for (int64_t begin = 0; begin < k; begin += kBlock, out += stride) {
    alignas(64) float values[kBlock];
    const float* block = x + begin;
    if (k - begin < kBlock) {
      for (int64_t i = 0; i < kBlock; ++i) values[i] = begin + i < k ? x[begin + i] : 0.0f;
      block = values;
    }
    V largest = V::set1(0.0f);
    for (int i = 0; i < kBlock; i += 16) largest = max_or_nan(largest, magnitude(V::load(block + i)));
    const float amax = reduce_max_or_nan(largest);
    const V inverse = V::set1(amax > 1e-30f ? 127.0f / amax : 0.0f);
    out->scale = amax <= 1e-30f ? 0.0f : amax / 127.0f;
    for (int i = 0; i < kBlock; i += 16) store_codes(out->q + i, fma(V::load(block + i), inverse, V::set1(kMagic)));
  }
  for (; first != out; first += stride) {  // in a loop of its own: no load waits for stores of parts of it
    first->negative_sum = -Set::sum_codes(first->q, first->starts);
  }
}

}  // namespace
}  // namespace gptbigcode
