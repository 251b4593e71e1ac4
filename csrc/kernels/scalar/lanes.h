// Sixteen floats as an array: what kernels/generic/lanes.h asks for, in plain C++. It defines what every other set has to compute.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/float_bits.h"
#include "kernels/generic/lanes.h"

namespace gptbigcode {
namespace {

struct f32x16 {
  float lane[16];

  static f32x16 load(const float* p);
  static f32x16 load_bf16(const uint16_t* p);
  static f32x16 load_f16(const uint16_t* p);
  static f32x16 set1(float x);
};

template <class Function>
inline f32x16 lanes(Function function) {
  f32x16 v{};
  for (int i = 0; i < 16; ++i) v.lane[i] = function(i);
  return v;
}

inline f32x16 f32x16::load(const float* p) {
  return lanes([&](int i) { return p[i]; });
}
inline f32x16 f32x16::load_bf16(const uint16_t* p) {
  return lanes([&](int i) { return from_bfloat16(p[i]); });
}
inline f32x16 f32x16::load_f16(const uint16_t* p) {
  return lanes([&](int i) { return from_float16(p[i]); });
}
inline f32x16 f32x16::set1(float x) {
  return lanes([&](int) { return x; });
}
inline void store(float* p, const f32x16& v) {
  for (int i = 0; i < 16; ++i) p[i] = v.lane[i];
}
inline f32x16 add(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline f32x16 sub(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline f32x16 mul(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline f32x16 div(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline f32x16 max(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline f32x16 min(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline f32x16 fma(const f32x16& a, const f32x16& b, const f32x16& c) {
  return lanes([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
inline f32x16 select_less(const f32x16& a, const f32x16& b, const f32x16& x, const f32x16& y) {
  return lanes([&](int i) { return a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i]; });
}
inline f32x16 half_pow2(const f32x16& t) {
  return lanes([&](int i) { return std::bit_cast<float>(std::bit_cast<uint32_t>(t.lane[i]) << 23); });
}
inline f32x16 magnitude(const f32x16& a) {
  return lanes([&](int i) { return std::bit_cast<float>(std::bit_cast<uint32_t>(a.lane[i]) & 0x7fffffffu); });
}
inline float max_or_nan(float a, float b) { return std::bit_cast<uint32_t>(a) > std::bit_cast<uint32_t>(b) ? a : b; }
inline f32x16 max_or_nan(const f32x16& a, const f32x16& b) {
  return lanes([&](int i) { return max_or_nan(a.lane[i], b.lane[i]); });
}
template <class Fold>
inline float reduce(f32x16 v, Fold fold) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v.lane[i] = fold(v.lane[i], v.lane[i + half]);
  }
  return v.lane[0];
}
inline float reduce_add(const f32x16& v) {
  return reduce(v, [](float a, float b) { return a + b; });
}
inline float reduce_max(const f32x16& v) {
  return reduce(v, [](float a, float b) { return a > b ? a : b; });
}
inline float reduce_max_or_nan(const f32x16& v) {
  return reduce(v, [](float a, float b) { return max_or_nan(a, b); });
}

template <int kRows>
inline void reduce_max_of_rows(const f32x16* v, float* maxima) {
  for (int r = 0; r < kRows; ++r) maxima[r] = reduce_max(v[r]);
}
template <int kRows>
inline void reduce_max_or_nan_of_rows(const f32x16* v, float* maxima) {
  for (int r = 0; r < kRows; ++r) maxima[r] = reduce_max_or_nan(v[r]);
}

inline void store_codes(int8_t* q, f32x16 magic) {
  alignas(64) float lanes[16];
  store(lanes, magic);
  int32_t bits[16];  // the low byte is the code
  __builtin_memcpy(bits, lanes, sizeof(bits));
  for (int i = 0; i < 16; ++i) q[i] = static_cast<int8_t>(bits[i] << 24 >> 24);
}

static_assert(Lanes<f32x16>);

}  // namespace
}  // namespace gptbigcode
