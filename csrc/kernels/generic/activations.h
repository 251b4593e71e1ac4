// Elementary functions, and the activation functions made of them.
#pragma once

#include "kernels/generic/lanes.h"

namespace gptbigcode {
namespace {

// exp(x) for |x| <= 80, relative error below 2e-7: x = n ln 2 + r, Taylor of degree 6 on |r| <= 0.35, minimax
// coefficients of Cephes' expf; ln 2 is split so that n times its first part is exact.
template <Lanes V>
inline V exp_in_range(V x) {
  const V t = fma(x, V::set1(1.44269504088896341f), V::set1(kPow2Magic));
  const V n = sub(t, V::set1(kPow2Magic));
  V r = fma(n, V::set1(-0.693359375f), x);
  r = fma(n, V::set1(2.12194440e-4f), r);
  V p = V::set1(2 * 1.9875691500e-4f);  // twice the polynomial, since half_pow2 is half the power
  p = fma(p, r, V::set1(2 * 1.3981999507e-3f));
  p = fma(p, r, V::set1(2 * 8.3334519073e-3f));
  p = fma(p, r, V::set1(2 * 4.1665795894e-2f));
  p = fma(p, r, V::set1(2 * 1.6666665459e-1f));
  p = fma(p, r, V::set1(2 * 5.0000001201e-1f));
  p = fma(p, mul(r, r), fma(r, V::set1(2.0f), V::set1(2.0f)));
  return mul(p, half_pow2(t));
}

// exp(x) for x clamped to [-80, 80]
template <Lanes V>
inline V exp(V x) {
  return exp_in_range(min(V::set1(80.0f), max(V::set1(-80.0f), x)));
}

template <Lanes V>
inline V negate(V x) {
  return sub(V::set1(0.0f), x);
}
template <Lanes V>
inline V sigmoid(V x) {
  return div(V::set1(1.0f), add(V::set1(1.0f), exp(negate(x))));
}
template <Lanes V>
inline V tanh(V x) {  // 2 sigmoid(2x) - 1, and x - x^3/3 near 0 where that cancels
  const V far = fma(V::set1(2.0f), sigmoid(add(x, x)), V::set1(-1.0f));
  const V square = mul(x, x);
  V near = fma(square, V::set1(-17.0f / 315.0f), V::set1(2.0f / 15.0f));
  near = fma(square, near, V::set1(-1.0f / 3.0f));
  near = fma(mul(x, square), near, x);
  return select_less(square, V::set1(0.04f), near, far);
}
// x / (1 + exp(-2u)) = x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3): Hendrycks & Gimpel, arXiv:1606.08415
template <Lanes V>
inline V gelu_tanh(V x) {
  const V inner = fma(mul(x, V::set1(0.044715f)), mul(x, x), x);
  return div(x, add(V::set1(1.0f), exp(mul(inner, V::set1(-1.5957691216057308f)))));
}
// x Phi(x); erf by Abramowitz & Stegun 7.1.26, absolute error below 1.5e-7
template <Lanes V>
inline V gelu_erf(V x) {
  const V z = mul(magnitude(x), V::set1(0.70710678118654752f));
  const V t = div(V::set1(1.0f), fma(V::set1(0.3275911f), z, V::set1(1.0f)));
  V p = V::set1(1.061405429f);
  p = fma(p, t, V::set1(-1.453152027f));
  p = fma(p, t, V::set1(1.421413741f));
  p = fma(p, t, V::set1(-0.284496736f));
  p = fma(p, t, V::set1(0.254829592f));
  const V upper = mul(mul(V::set1(0.5f), mul(p, t)), exp(negate(mul(z, z))));  // 1 - Phi(|x|)
  return mul(x, select_less(x, V::set1(0.0f), upper, sub(V::set1(1.0f), upper)));
}
template <Lanes V>
inline V mish(V x) {  // x tanh(log(1 + e^x)) = x n / (n + 2), n = e^x (e^x + 2)
  const V e = exp(min(V::set1(20.0f), x));
  const V n = mul(e, add(e, V::set1(2.0f)));
  return mul(x, div(n, add(n, V::set1(2.0f))));
}

template <Lanes V>
inline V activation(Activation kind, V x) {
  const V zero = V::set1(0.0f);
  switch (kind) {
    case Activation::kGeluTanh: return gelu_tanh(x);
    case Activation::kGeluErf: return gelu_erf(x);
    case Activation::kGelu10: return min(V::set1(10.0f), max(V::set1(-10.0f), gelu_erf(x)));
    case Activation::kQuickGelu: return mul(x, sigmoid(mul(x, V::set1(1.702f))));
    case Activation::kRelu: return max(zero, x);
    case Activation::kRelu2: return mul(max(zero, x), max(zero, x));
    case Activation::kRelu6: return min(V::set1(6.0f), max(zero, x));
    case Activation::kLeakyRelu: return select_less(x, zero, mul(x, V::set1(0.01f)), x);
    case Activation::kSilu: return mul(x, sigmoid(x));
    case Activation::kSigmoid: return sigmoid(x);
    case Activation::kTanh: return tanh(x);
    case Activation::kMish: return mish(x);
    case Activation::kLinear: return x;
  }
  return x;
}

template <Lanes V>
void activate(Activation kind, float* x, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(x + i, activation(kind, V::load(x + i)));
  if (i < n) store_first(x + i, activation(kind, load_first<V>(x + i, n - i)), n - i);
}

}  // namespace
}  // namespace gptbigcode
