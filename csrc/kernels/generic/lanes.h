// The contract of the float kernels: a type that holds sixteen floats in whatever registers an instruction set has. The kernels
// are written once over it.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

// Everything that kernel files share lies in unnamed namespaces, because each of them is compiled for its own CPU: of a function
// with external linkage the linker might keep the version of the newest CPU for all.
namespace gptbigcode {
namespace {

// No other order of a reduction exists anywhere, and no operation rounds otherwise, so all sets agree bit for bit.
//
// NaN and infinity: a row that meets NaN becomes NaN, and no other row does. The sets agree that a number is NaN, not on its bits.
// So lanes that do not count are selected away and never multiplied with zero. max and min return b if a or b is NaN, so the
// operand that may be NaN is passed as b.
template <class V>
concept Lanes = requires(V v, float x, const float* floats, const uint16_t* halves, float* out, int8_t* codes, float* maxima) {
  { V::load(floats) } -> std::same_as<V>;
  { V::load_bf16(halves) } -> std::same_as<V>;
  { V::load_f16(halves) } -> std::same_as<V>;
  { V::set1(x) } -> std::same_as<V>;
  store(out, v);
  { add(v, v) } -> std::same_as<V>;
  { sub(v, v) } -> std::same_as<V>;
  { mul(v, v) } -> std::same_as<V>;
  { div(v, v) } -> std::same_as<V>;
  { max(v, v) } -> std::same_as<V>;                // a > b ? a : b
  { min(v, v) } -> std::same_as<V>;                // a < b ? a : b
  { fma(v, v, v) } -> std::same_as<V>;             // a * b + c, rounded once
  { select_less(v, v, v, v) } -> std::same_as<V>;  // (a, b, x, y): a < b ? x : y, lane by lane
  { magnitude(v) } -> std::same_as<V>;             // the sign bit cleared
  { max_or_nan(v, v) } -> std::same_as<V>;         // of numbers whose sign bit is clear: NaN if one is NaN, else the larger
  { half_pow2(v) } -> std::same_as<V>;             // 2^(n-1) for kPow2Magic + n, -125 <= n <= 127; anything for NaN
  store_codes(codes, v);                           // sixteen codes, given as kMagic + code
  // Folding halves: lane i with lane i + 8, then + 4, + 2, + 1.
  { reduce_add(v) } -> std::same_as<float>;
  { reduce_max(v) } -> std::same_as<float>;
  { reduce_max_or_nan(v) } -> std::same_as<float>;
  // Of each of some rows: maxima[r] is that of (&v)[r]. maxima has sixteen places.
  reduce_max_of_rows<1>(&v, maxima);
  reduce_max_or_nan_of_rows<1>(&v, maxima);
};

constexpr float kMagic = 12582912.0f;          // 1.5 * 2^23: adding it rounds to an integer, to nearest even
constexpr float kPow2Magic = kMagic + 126.0f;  // so that the integer's low bits are the exponent of 2^(n-1)

template <Lanes V>
inline V load_first(const float* p, int64_t count) {  // the missing lanes are zero
  alignas(64) float lanes[16] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return V::load(lanes);
}
template <Lanes V>
inline void store_first(float* p, V v, int64_t count) {
  alignas(64) float lanes[16];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}
template <Lanes V>
inline V lane_numbers() {
  alignas(64) static constexpr float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return V::load(kLanes);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline void prefetch(const std::byte* p, size_t nbytes) {
  for (size_t line = 0; line < nbytes; line += 64) __builtin_prefetch(p + line, 0, 3);
}

}  // namespace
}  // namespace gptbigcode
