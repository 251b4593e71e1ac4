// The AVX-512 registers, and the intrinsics on integers that the kernels use, in plain C++, lane by lane as Intel's Intrinsics
// Guide describes them. With GPTBIGCODE_CPU_EMULATE_VNNI the kernels are compiled on these, so that a CPU without AVX-512 can test
// them.
#pragma once

#include <cstdint>
#include <cstring>

// NOLINTBEGIN(bugprone-reserved-identifier): the names are Intel's
namespace gptbigcode {
namespace {

template <class Lane, int kLanes>
struct Register {
  Lane lane[kLanes];
};
using __m128i = Register<int8_t, 16>;
using __m256i = Register<uint16_t, 16>;
using __m512 = Register<float, 16>;
using __m512i = Register<int32_t, 16>;
using __mmask16 = uint16_t;

template <class To, class From>
inline To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
using U8x64 = Register<uint8_t, 64>;
using I8x64 = Register<int8_t, 64>;
using I16x32 = Register<int16_t, 32>;
using U16x32 = Register<uint16_t, 32>;
using U32x16 = Register<uint32_t, 16>;

template <class Vector, class Function>
inline Vector each(Function function) {
  Vector v;
  for (int i = 0; i < static_cast<int>(sizeof(v.lane) / sizeof(v.lane[0])); ++i) v.lane[i] = function(i);
  return v;
}
template <class Vector>
inline Vector load_bytes(const void* p) {
  Vector v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline __m128i _mm_loadu_si128(const __m128i* p) { return load_bytes<__m128i>(p); }
inline __m256i _mm256_loadu_si256(const __m256i* p) { return load_bytes<__m256i>(p); }
inline __m128i _mm_load_si128(const __m128i* p) { return load_bytes<__m128i>(p); }
inline __m512i _mm512_loadu_si512(const void* p) { return load_bytes<__m512i>(p); }
inline __m512i _mm512_load_si512(const void* p) { return load_bytes<__m512i>(p); }
inline void _mm512_store_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof(a)); }
inline __m512i _mm512_broadcast_i32x4(__m128i a) {
  return as<__m512i>(each<I8x64>([&](int i) { return a.lane[i % 16]; }));
}
inline void _mm_storeu_si128(__m128i* p, __m128i a) { std::memcpy(p, &a, sizeof(a)); }
inline void _mm512_storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof(a)); }
inline __m512i _mm512_set1_epi32(int32_t x) {
  return each<__m512i>([&](int) { return x; });
}
inline __m512i _mm512_set1_epi16(int16_t x) {
  return as<__m512i>(each<I16x32>([&](int) { return x; }));
}
inline __m512i _mm512_set1_epi8(int8_t x) {
  return as<__m512i>(each<I8x64>([&](int) { return x; }));
}
inline __m512i _mm512_setzero_si512() { return _mm512_set1_epi32(0); }
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  const auto x = as<U32x16>(a), y = as<U32x16>(b);
  return as<__m512i>(each<U32x16>([&](int i) { return x.lane[i] + y.lane[i]; }));
}
inline __m512i _mm512_max_epu32(__m512i a, __m512i b) {
  const auto x = as<U32x16>(a), y = as<U32x16>(b);
  return as<__m512i>(each<U32x16>([&](int i) { return x.lane[i] > y.lane[i] ? x.lane[i] : y.lane[i]; }));
}
inline __m512i _mm512_sub_epi32(__m512i a, __m512i b) {
  const auto x = as<U32x16>(a), y = as<U32x16>(b);
  return as<__m512i>(each<U32x16>([&](int i) { return x.lane[i] - y.lane[i]; }));
}
inline __m512i _mm512_mullo_epi32(__m512i a, __m512i b) {
  const auto x = as<U32x16>(a), y = as<U32x16>(b);
  return as<__m512i>(each<U32x16>([&](int i) { return x.lane[i] * y.lane[i]; }));
}
inline __m512i _mm512_add_epi8(__m512i a, __m512i b) {
  const auto x = as<U8x64>(a), y = as<U8x64>(b);
  return as<__m512i>(each<U8x64>([&](int i) { return static_cast<uint8_t>(x.lane[i] + y.lane[i]); }));
}
inline __m512i _mm512_shuffle_epi8(__m512i a, __m512i index) {  // within each 128 bits; an index with its high bit set gives zero
  const auto x = as<U8x64>(a), j = as<U8x64>(index);
  return as<__m512i>(
      each<U8x64>([&](int i) { return (j.lane[i] & 128) != 0 ? uint8_t{0} : x.lane[i / 16 * 16 + (j.lane[i] & 15)]; }));
}
inline __m512i _mm512_srai_epi32(__m512i a, unsigned count) {
  return each<__m512i>([&](int i) { return a.lane[i] >> count; });
}
inline __m512i _mm512_and_si512(__m512i a, __m512i b) {
  return each<__m512i>([&](int i) { return a.lane[i] & b.lane[i]; });
}
inline __m512i _mm512_or_si512(__m512i a, __m512i b) {
  return each<__m512i>([&](int i) { return a.lane[i] | b.lane[i]; });
}
inline __m512i _mm512_xor_si512(__m512i a, __m512i b) {
  return each<__m512i>([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
inline __m512i _mm512_slli_epi16(__m512i a, unsigned count) {
  const auto x = as<U16x32>(a);
  return as<__m512i>(each<U16x32>([&](int i) { return static_cast<uint16_t>(x.lane[i] << count); }));
}
inline __m512i _mm512_slli_epi32(__m512i a, unsigned count) {
  const auto x = as<U32x16>(a);
  return as<__m512i>(each<U32x16>([&](int i) { return x.lane[i] << count; }));
}
inline __m512i _mm512_srli_epi16(__m512i a, unsigned count) {
  const auto x = as<U16x32>(a);
  return as<__m512i>(each<U16x32>([&](int i) { return static_cast<uint16_t>(x.lane[i] >> count); }));
}
inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  return each<__m512i>([&](int i) { return static_cast<int32_t>(a.lane[i]); });
}
inline __m512i _mm512_cvtepi8_epi32(__m128i a) {
  return each<__m512i>([&](int i) { return static_cast<int32_t>(a.lane[i]); });
}
inline __m128i _mm512_cvtepi32_epi8(__m512i a) {
  return each<__m128i>([&](int i) { return static_cast<int8_t>(a.lane[i] & 0xff); });
}
inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
  const auto x = as<I16x32>(a), y = as<I16x32>(b);
  return each<__m512i>([&](int i) { return x.lane[2 * i] * y.lane[2 * i] + x.lane[2 * i + 1] * y.lane[2 * i + 1]; });
}
inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  const auto x = as<U8x64>(a);
  const auto y = as<I8x64>(b);
  return each<__m512i>([&](int i) {
    int32_t total = sum.lane[i];
    for (int j = 4 * i; j < 4 * i + 4; ++j) total += x.lane[j] * y.lane[j];
    return total;
  });
}

}  // namespace
}  // namespace gptbigcode
// NOLINTEND(bugprone-reserved-identifier)
