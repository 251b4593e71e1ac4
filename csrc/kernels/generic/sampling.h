// The passes of the sampler, written over vectors of GCC: as wide as a register is, or of four floats.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/sampling.h"

namespace gptbigcode {
namespace {

// Floats that the compiler keeps in a register, and their bits. They are passed by reference: where registers are narrower, passing
// them by value would need another calling convention.
typedef float Float4 __attribute__((vector_size(16)));
typedef float Float8 __attribute__((vector_size(32)));
typedef uint32_t Bits4 __attribute__((vector_size(16)));
typedef uint32_t Bits8 __attribute__((vector_size(32)));
template <class Floats>
using BitsOf = std::conditional_t<sizeof(Floats) == sizeof(Float4), Bits4, Bits8>;
template <class Floats>
constexpr int kWidth = sizeof(Floats) / sizeof(float);
constexpr int kSamplingLanes = 16;  // partial sums: their number decides how sums are rounded
template <class Floats>
constexpr int kParts = kSamplingLanes / kWidth<Floats>;

template <class Floats>
inline void load_floats(const float* from, Floats& to) {
  __builtin_memcpy(&to, from, sizeof(Floats));
}

// Makes x, which is <= 0, 2^x: 2^n 2^r with |r| <= 1/2 and a polynomial for 2^r, relative error below 2e-7. 0 below -126 and for
// NaN.
template <class Floats>
inline void exp2_nonpositive(Floats& x) {
  using Bits = BitsOf<Floats>;
  constexpr float kRound = 0x1.8p23F;  // adding it rounds to an integer, which is then in the low bits
  const Floats shifted = x + kRound, r = x - (shifted - kRound);
  Floats power = 0.00132647F * r + 0.00967151F;
  power = power * r + 0.05550734F;
  power = power * r + 0.24022242F;
  power = power * r + 0.69314698F;
  power = power * r + 1.0F;
  x = (Floats)(((Bits)power + ((Bits)shifted << 23)) & (Bits)(x >= -126.0F));
}

// Sum of 16 lanes, in the same order for both widths: the second half is added to the first until one is left.
template <class Floats, int kParts>
inline float sum_of(Floats (&lanes)[kParts]) {
  for (int parts = kParts / 2; parts > 0; parts /= 2) {
    for (int j = 0; j < parts; ++j) lanes[j] += lanes[j + parts];
  }
  Float4 sums = {lanes[0][0], lanes[0][1], lanes[0][2], lanes[0][3]};
  if constexpr (kWidth<Floats> == 8) sums += Float4{lanes[0][4], lanes[0][5], lanes[0][6], lanes[0][7]};
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

template <class Floats>
bool find_maxima(const float* candidates, int64_t count, float* maxima) {
  constexpr float kExcluded = -__builtin_inff();
  BitsOf<Floats> unordered = {};
  for (int64_t begin = 0; begin < count; begin += kSamplingGroup) {
    const float* scores = candidates + begin;
    float filled_up[kSamplingGroup];
    if (const int64_t left = count - begin; left < kSamplingGroup) {
      for (int64_t i = 0; i < kSamplingGroup; ++i) filled_up[i] = i < left ? scores[i] : kExcluded;
      scores = filled_up;
    }
    Floats lanes[kParts<Floats>];
    __builtin_memcpy(&lanes, scores, sizeof(lanes));
    for (int i = 0; i < kSamplingGroup; i += kSamplingLanes) {
      for (Floats& lane : lanes) {
        Floats score;
        load_floats(scores, score);
        scores += kWidth<Floats>;
        unordered |= (BitsOf<Floats>)(score != score);
        lane = score > lane ? score : lane;
      }
    }
    for (int parts = kParts<Floats> / 2; parts > 0; parts /= 2) {
      for (int j = 0; j < parts; ++j) lanes[j] = lanes[j] > lanes[j + parts] ? lanes[j] : lanes[j + parts];
    }
    float best = lanes[0][0];
    for (int j = 1; j < kWidth<Floats>; ++j) best = lanes[0][j] > best ? lanes[0][j] : best;
    maxima[begin / kSamplingGroup] = best;
  }
  uint32_t nan = 0;
  for (int j = 0; j < kWidth<Floats>; ++j) nan |= unordered[j];
  return nan != 0;
}

template <class Floats>
double weigh(const Candidates& candidates, float best, float scale) {
  const Floats maximum = Floats{} + best, factor = Floats{} + scale;
  double total = 0;
  for (int64_t g = 0; g < candidates.groups; ++g) {
    const float* scores = candidates.scores + g * kSamplingGroup;
    float* weights = candidates.weights + g * kSamplingGroup;
    Floats sum[kParts<Floats>] = {};
    for (int i = 0; i < kSamplingGroup; i += kSamplingLanes) {
      for (Floats& part : sum) {
        Floats weight;
        load_floats(scores, weight);
        weight = (weight - maximum) * factor;
        exp2_nonpositive(weight);
        part += weight;
        __builtin_memcpy(weights, &weight, sizeof(weight));
        scores += kWidth<Floats>;
        weights += kWidth<Floats>;
      }
    }
    candidates.sums[g] = sum_of(sum);
    total += static_cast<double>(candidates.sums[g]);
  }
  return total;
}

template <class Floats>
double keep_before(const Candidates& candidates, int64_t index) {
  const float score = candidates.scores[index];
  double left = 0;
  for (int64_t g = 0; g < candidates.groups; ++g) {
    candidates.sums[g] = 0;
    if (candidates.maxima[g] < score) continue;
    const float* scores = candidates.scores + g * kSamplingGroup;
    float* weights = candidates.weights + g * kSamplingGroup;
    const int64_t before = index - g * kSamplingGroup;  // of this group, those of equal scores that are before the candidate
    const auto ties = static_cast<uint32_t>(before < 0 ? 0 : before > kSamplingGroup ? kSamplingGroup : before);
    BitsOf<Floats> place;
    for (uint32_t j = 0; j < kWidth<Floats>; ++j) place[j] = j;
    Floats sum[kParts<Floats>] = {};
    for (int i = 0; i < kSamplingGroup; i += kSamplingLanes) {
      for (Floats& part : sum) {
        Floats other, weight;
        load_floats(scores, other);
        load_floats(weights, weight);
        weight = (other > score) | ((other == score) & (place < ties)) ? weight : Floats{};
        part += weight;
        __builtin_memcpy(weights, &weight, sizeof(weight));
        scores += kWidth<Floats>;
        weights += kWidth<Floats>;
        place += static_cast<uint32_t>(kWidth<Floats>);
      }
    }
    candidates.sums[g] = sum_of(sum);
    left += static_cast<double>(candidates.sums[g]);
  }
  return left;
}

}  // namespace
}  // namespace gptbigcode
