// The float kernels, written once over sixteen virtual lanes. Included by each instruction set's file inside its anonymous
// namespace, after it has defined:
//
//   struct f32x16;                                  sixteen floats in whatever registers there are
//   f32x16 load(const float*), load_bf16(const uint16_t*), set1(float)
//   void store(float*, f32x16)
//   f32x16 add, sub, mul, div, max, min (a, b)      max: a > b ? a : b; min: a < b ? a : b
//   f32x16 fma(a, b, c)                             a * b + c, rounded once
//   f32x16 select_less(a, b, x, y)                  a < b ? x : y, lane by lane
//   f32x16 magnitude(f32x16)                        the sign bit cleared
//   f32x16 max_or_nan(a, b)                         for a and b whose sign bit is clear: NaN if one is, else the larger
//   f32x16 half_pow2(t)                             2^(n-1) for t = kPow2Magic + n, -125 <= n <= 127; something for NaN
//   void store_codes(int8_t[16], f32x16)            sixteen codes, given as 1.5 * 2^23 + code
//   int32_t sum_codes(int8_t[128], int32_t starts[8])  the sum of all; fills ActivationBlock::starts
//   float reduce_add(f32x16), reduce_max(f32x16), reduce_max_or_nan(f32x16)
//                                                   folding halves: lane i with lane i+8, then +4, +2, +1
//   void reduce_max_of_rows<rows>(f32x16[rows], float[16]), reduce_max_or_nan_of_rows<rows>    of each
//
// No other order of a reduction exists anywhere, so every set agrees bit for bit.
//
// NaN and infinity: a row that meets NaN becomes NaN, and no other row does. Sets agree that it is NaN, not on its bits. So lanes
// that do not count are selected away, never multiplied with zero; and max and min, which return b if a or b is NaN, have the
// operand that may be NaN as b.

inline void prefetch(const std::byte* p, size_t nbytes) {
  for (size_t line = 0; line < nbytes; line += 64) __builtin_prefetch(p + line, 0, 3);
}

// ---------------------------------------------------------------- lanes

inline f32x16 load_first(const float* p, int64_t count) {  // the missing lanes are zero
  alignas(64) float lanes[16] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store_first(float* p, f32x16 v, int64_t count) {
  alignas(64) float lanes[16];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

// ---------------------------------------------------------------- elementary functions

constexpr float kMagic = 12582912.0f;          // 1.5 * 2^23: adding it rounds to an integer, to nearest even
constexpr float kPow2Magic = kMagic + 126.0f;  // so that the integer's low bits are the exponent of 2^(n-1)

// exp(x) for |x| <= 80, relative error below 2e-7: x = n ln 2 + r, Taylor of degree 6 on |r| <= 0.35, minimax
// coefficients of Cephes' expf; ln 2 is split so that n times its first part is exact.
inline f32x16 exp_in_range(f32x16 x) {
  const f32x16 t = fma(x, set1(1.44269504088896341f), set1(kPow2Magic));
  const f32x16 n = sub(t, set1(kPow2Magic));
  f32x16 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  f32x16 p = set1(2 * 1.9875691500e-4f);  // twice the polynomial, since half_pow2 is half the power
  p = fma(p, r, set1(2 * 1.3981999507e-3f));
  p = fma(p, r, set1(2 * 8.3334519073e-3f));
  p = fma(p, r, set1(2 * 4.1665795894e-2f));
  p = fma(p, r, set1(2 * 1.6666665459e-1f));
  p = fma(p, r, set1(2 * 5.0000001201e-1f));
  p = fma(p, mul(r, r), fma(r, set1(2.0f), set1(2.0f)));
  return mul(p, half_pow2(t));
}

// exp(x) for x clamped to [-80, 80]
inline f32x16 exp(f32x16 x) { return exp_in_range(min(set1(80.0f), max(set1(-80.0f), x))); }

inline f32x16 negate(f32x16 x) { return sub(set1(0.0f), x); }
inline f32x16 sigmoid(f32x16 x) { return div(set1(1.0f), add(set1(1.0f), exp(negate(x)))); }
inline f32x16 tanh(f32x16 x) {  // 2 sigmoid(2x) - 1, and x - x^3/3 near 0 where that cancels
  const f32x16 far = fma(set1(2.0f), sigmoid(add(x, x)), set1(-1.0f));
  const f32x16 square = mul(x, x);
  f32x16 near = fma(square, set1(-17.0f / 315.0f), set1(2.0f / 15.0f));
  near = fma(square, near, set1(-1.0f / 3.0f));
  near = fma(mul(x, square), near, x);
  return select_less(square, set1(0.04f), near, far);
}
// x / (1 + exp(-2u)) = x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3): Hendrycks & Gimpel, arXiv:1606.08415
inline f32x16 gelu_tanh(f32x16 x) {
  const f32x16 inner = fma(mul(x, set1(0.044715f)), mul(x, x), x);
  return div(x, add(set1(1.0f), exp(mul(inner, set1(-1.5957691216057308f)))));
}
// x Phi(x); erf by Abramowitz & Stegun 7.1.26, absolute error below 1.5e-7
inline f32x16 gelu_erf(f32x16 x) {
  const f32x16 z = mul(magnitude(x), set1(0.70710678118654752f));
  const f32x16 t = div(set1(1.0f), fma(set1(0.3275911f), z, set1(1.0f)));
  f32x16 p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  const f32x16 upper = mul(mul(set1(0.5f), mul(p, t)), exp(negate(mul(z, z))));  // 1 - Phi(|x|)
  return mul(x, select_less(x, set1(0.0f), upper, sub(set1(1.0f), upper)));
}
inline f32x16 mish(f32x16 x) {  // x tanh(log(1 + e^x)) = x n / (n + 2), n = e^x (e^x + 2)
  const f32x16 e = exp(min(set1(20.0f), x));
  const f32x16 n = mul(e, add(e, set1(2.0f)));
  return mul(x, div(n, add(n, set1(2.0f))));
}

inline f32x16 activation(Activation kind, f32x16 x) {
  const f32x16 zero = set1(0.0f);
  switch (kind) {
    case Activation::kGeluTanh: return gelu_tanh(x);
    case Activation::kGeluErf: return gelu_erf(x);
    case Activation::kGelu10: return min(set1(10.0f), max(set1(-10.0f), gelu_erf(x)));
    case Activation::kQuickGelu: return mul(x, sigmoid(mul(x, set1(1.702f))));
    case Activation::kRelu: return max(zero, x);
    case Activation::kRelu2: return mul(max(zero, x), max(zero, x));
    case Activation::kRelu6: return min(set1(6.0f), max(zero, x));
    case Activation::kLeakyRelu: return select_less(x, zero, mul(x, set1(0.01f)), x);
    case Activation::kSilu: return mul(x, sigmoid(x));
    case Activation::kSigmoid: return sigmoid(x);
    case Activation::kTanh: return tanh(x);
    case Activation::kMish: return mish(x);
    case Activation::kLinear: return x;
  }
  return x;
}

void activate(Activation kind, float* x, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(x + i, activation(kind, load(x + i)));
  if (i < n) store_first(x + i, activation(kind, load_first(x + i, n - i)), n - i);
}

// ---------------------------------------------------------------- rows

// Two passes (mean, then variance), each one sum of sixteen lanes.
void layer_norm(const float* x, int64_t k, const float* weight, const float* bias, float epsilon, float* out) {
  const int64_t whole = k / 16 * 16, rest = k - whole;
  f32x16 sum = set1(0.0f);
  for (int64_t i = 0; i < whole; i += 16) sum = add(sum, load(x + i));
  if (rest > 0) sum = add(sum, load_first(x + whole, rest));
  const f32x16 mean = set1(reduce_add(sum) / static_cast<float>(k));
  f32x16 squares = set1(0.0f);
  for (int64_t i = 0; i < whole; i += 16) {
    const f32x16 d = sub(load(x + i), mean);
    squares = fma(d, d, squares);
  }
  if (rest > 0) {
    alignas(64) float lanes[16] = {};
    store_first(lanes, sub(load_first(x + whole, rest), mean), rest);
    const f32x16 d = load(lanes);
    squares = fma(d, d, squares);
  }
  const float variance = reduce_add(squares) / static_cast<float>(k);
  const f32x16 inverse = set1(1.0f / __builtin_sqrtf(variance + epsilon));
  for (int64_t i = 0; i < whole; i += 16) {
    store(out + i, fma(mul(sub(load(x + i), mean), inverse), load(weight + i), load(bias + i)));
  }
  if (rest > 0) {
    const f32x16 normed = mul(sub(load_first(x + whole, rest), mean), inverse);
    store_first(out + whole, fma(normed, load_first(weight + whole, rest), load_first(bias + whole, rest)), rest);
  }
}

// Absolute maximum -> 127, rounding to nearest even. A block that holds NaN or infinity has that as its scale, and codes of no
// meaning: what is computed with it is NaN.
void quantize(const float* x, int64_t k, ActivationBlock* out, int64_t stride) {
  ActivationBlock* first = out;
  for (int64_t begin = 0; begin < k; begin += kBlock, out += stride) {
    alignas(64) float values[kBlock];
    const float* block = x + begin;
    if (k - begin < kBlock) {
      for (int64_t i = 0; i < kBlock; ++i) values[i] = begin + i < k ? x[begin + i] : 0.0f;
      block = values;
    }
    f32x16 largest = set1(0.0f);
    for (int i = 0; i < kBlock; i += 16) largest = max_or_nan(largest, magnitude(load(block + i)));
    const float amax = reduce_max_or_nan(largest);
    const f32x16 inverse = set1(amax > 1e-30f ? 127.0f / amax : 0.0f);
    out->scale = amax <= 1e-30f ? 0.0f : amax / 127.0f;
    for (int i = 0; i < kBlock; i += 16) store_codes(out->q + i, fma(load(block + i), inverse, set1(kMagic)));
  }
  for (; first != out; first += stride) {  // in a loop of its own: no load waits for stores of parts of it
    first->negative_sum = -sum_codes(first->q, first->starts);
  }
}

// ---------------------------------------------------------------- linear layers in float

inline f32x16 load_weight(const float* p) { return load(p); }
inline f32x16 load_weight(const uint16_t* p) { return load_bf16(p); }

inline void put(const LinearTask& task, int64_t row, int64_t tile, f32x16 value) {
  float* out = task.out + row * task.out_stride + tile * kTileRows;
  const int64_t count = task.n - tile * kTileRows;
  if (count >= kTileRows) {
    store(out, task.accumulate ? add(load(out), value) : value);
  } else {
    store_first(out, task.accumulate ? add(load_first(out, count), value) : value, count);
  }
}
inline f32x16 initial(const LinearTask& task, int64_t tile) {
  if (task.bias == nullptr) return set1(0.0f);
  const int64_t count = task.n - tile * kTileRows;
  return count >= kTileRows ? load(task.bias + tile * kTileRows) : load_first(task.bias + tile * kTileRows, count);
}

// Several rows and tiles at a time, for independent chains of fma and for reuse of loaded weights.
template <class Weight, int kRows, int kTiles>
inline void linear_float_part(const LinearTask& task, int64_t row, int64_t tile) {
  const auto* weights = reinterpret_cast<const Weight*>(task.weights);
  f32x16 sum[kRows][kTiles];
  for (int t = 0; t < kTiles; ++t) {
    for (int r = 0; r < kRows; ++r) sum[r][t] = initial(task, tile + t);
  }
  for (int64_t k = 0; k < task.k; ++k) {
    f32x16 w[kTiles];
    for (int t = 0; t < kTiles; ++t) w[t] = load_weight(weights + ((tile + t) * task.k + k) * kTileRows);
    for (int r = 0; r < kRows; ++r) {
      const f32x16 x = set1(task.x[(row + r) * task.k + k]);
      for (int t = 0; t < kTiles; ++t) sum[r][t] = fma(x, w[t], sum[r][t]);
    }
  }
  for (int t = 0; t < kTiles; ++t) {
    for (int r = 0; r < kRows; ++r) put(task, row + r, tile + t, sum[r][t]);
  }
}

template <class Weight, int kRows>
inline void linear_float_tile(const LinearTask& task, int64_t row, int64_t tile) {
  for (; row + kRows <= task.m; row += kRows) linear_float_part<Weight, kRows, 1>(task, row, tile);
  if constexpr (kRows > 1) {
    if (row < task.m) linear_float_tile<Weight, kRows == 6 ? 4 : kRows / 2>(task, row, tile);
  }
}

template <class Weight>
void linear_float(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  int64_t tile = tile_begin;
  if (task.m == 1) {
    for (; tile + 4 <= tile_end; tile += 4) linear_float_part<Weight, 1, 4>(task, 0, tile);
  }
  for (; tile < tile_end; ++tile) linear_float_tile<Weight, 6>(task, 0, tile);
}

// ---------------------------------------------------------------- reading

// One part after another would leave most of what can be under way at a time unused: the hardware follows a stream at a time for
// each page, so several parts are read side by side.
template <int kStreams>
inline float read_streams(const float* data, int64_t count) {
  constexpr int64_t kStep = 64, kAhead = 256;  // floats; four lines of 64 bytes at a time, prefetched 1 KiB before
  const int64_t part = count / kStreams / kStep * kStep;
  f32x16 largest[4];
  for (auto& v : largest) v = set1(-__builtin_inff());
  for (int64_t i = 0; i < part; i += kStep) {
    for (int s = 0; s < kStreams; ++s) {
      const float* at = data + s * part + i;
      for (int j = 0; j < 4; ++j) {
        __builtin_prefetch(at + kAhead + j * 16, 0, 3);
        largest[j] = max(load(at + j * 16), largest[j]);
      }
    }
  }
  float result = reduce_max(max(max(largest[0], largest[1]), max(largest[2], largest[3])));
  for (int64_t i = kStreams * part; i < count; ++i) result = data[i] > result ? data[i] : result;
  return result;
}
float read(const float* data, int64_t count, int streams) {
  switch (streams) {
    case 1: return read_streams<1>(data, count);
    case 2: return read_streams<2>(data, count);
    case 4: return read_streams<4>(data, count);
    default: return read_streams<8>(data, count);
  }
}

// ---------------------------------------------------------------- packing

#include "kernels/generic/pack_int4.h"
#include "kernels/generic/pack_int6.h"
