// Quantises the sixteen rows of a tile to int6. Each row has a lane, so no sum runs across lanes.
// In the same steps as pack_int4.h: first scales of the groups, then a row scale, then multipliers.
#pragma once

#include "kernels/generic/pack_int4.h"

namespace gptbigcode {
namespace {

template <Lanes V>
inline V nearest_int6(V x) {
  const V clamped = min(max(x, V::set1(-kInt6Zero)), V::set1(kInt6Zero - 1));
  return sub(add(clamped, V::set1(kMagic)), V::set1(kMagic));
}

// Sums over a group that is coded with a scale; w is the weight of an error.
template <Lanes V>
struct Int6Fit {
  V wxv, wvv;
};
// x: [kInt6Group][16 rows]. The weight of an error at x is x^2 + mean(x^2) of the group.
template <Lanes V>
inline Int6Fit<V> fit_int6(const float* x, V mean, V inverse_scale) {
  Int6Fit<V> sums{V::set1(0.0f), V::set1(0.0f)};
  for (int i = 0; i < kInt6Group * kTileRows; i += kTileRows) {
    const V xi = V::load(x + i), v = nearest_int6(mul(xi, inverse_scale)), wv = mul(add(mul(xi, xi), mean), v);
    sums.wxv = add(sums.wxv, mul(wv, xi));
    sums.wvv = add(sums.wvv, mul(wv, v));
  }
  return sums;
}

template <Lanes V>
inline V mean_square_int6(const float* x) {
  V sum = V::set1(0.0f);
  for (int i = 0; i < kInt6Group * kTileRows; i += kTileRows) sum = add(sum, mul(V::load(x + i), V::load(x + i)));
  return mul(sum, V::set1(1.0f / kInt6Group));
}

// Finds a group's scale, which may have either sign. A candidate puts the weight of largest magnitude near an end of the codes; its
// scale is then refitted by least squares. The best candidate is taken.
template <Lanes V>
inline V search_int6_scale(const float* x, V mean) {
  V extreme = V::set1(0.0f);
  for (int i = 0; i < kInt6Group * kTileRows; i += kTileRows) {
    const V xi = V::load(x + i);
    extreme = select_less(magnitude(extreme), magnitude(xi), xi, extreme);
  }
  extreme = select_less(magnitude(extreme), V::set1(1e-30f), V::set1(0.0f), extreme);
  const V inverse = inverse_or_zero(extreme);
  V best_gain = V::set1(0.0f), best = V::set1(0.0f);
  constexpr float kEnds[] = {-32.0f, -33.0f, -31.2f, -30.4f, -29.2f, -28.0f, 31.0f, 32.0f, 30.2f, 29.4f, 28.2f, 27.0f};
  for (const float end : kEnds) {
    const Int6Fit<V> sums = fit_int6(x, mean, mul(inverse, V::set1(end)));
    const V scale = mul(sums.wxv, inverse_or_zero(sums.wvv));
    const V gain = mul(sums.wxv, scale);  // sum w x^2 less the error
    best = select_less(best_gain, gain, scale, best);
    best_gain = max(gain, best_gain);
  }
  return best;
}

template <Lanes V>
struct Int6Choice {
  V multiplier;
  Int6Fit<V> sums;
};
// For given row scales: the best multiplier, trying both signs and those within `reach` of the wanted scale.
template <Lanes V>
inline Int6Choice<V> choose_int6(const float* x, V mean, V row_scale, V wanted, int reach) {
  const V zero = V::set1(0.0f), largest = V::set1(kInt6MaxMultiplier);
  const V ratio = mul(magnitude(wanted), inverse_or_zero(row_scale));
  const V rounded = sub(add(min(ratio, largest), V::set1(kMagic)), V::set1(kMagic));
  Int6Choice<V> best{zero, {zero, zero}};
  V best_gain = zero;
  constexpr float kSigns[] = {1.0f, -1.0f};
  for (int step = -reach; step <= reach; ++step) {
    const V size = min(max(add(rounded, V::set1(static_cast<float>(step))), V::set1(1.0f)), largest);
    for (const float sign : kSigns) {
      const V multiplier = mul(size, V::set1(sign)), scale = mul(row_scale, multiplier);
      const Int6Fit<V> sums = fit_int6(x, mean, inverse_or_zero(scale));
      const V gain = mul(scale, sub(add(sums.wxv, sums.wxv), mul(scale, sums.wvv)));
      best.multiplier = select_less(best_gain, gain, multiplier, best.multiplier);
      best.sums.wxv = select_less(best_gain, gain, sums.wxv, best.sums.wxv);
      best.sums.wvv = select_less(best_gain, gain, sums.wvv, best.sums.wvv);
      best_gain = max(gain, best_gain);
    }
  }
  return best;
}

// Writes the codes and multipliers of group g into a block.
template <Lanes V>
inline void put_int6(const float* x, V scale, V multiplier, int64_t g, std::byte* block) {
  alignas(64) float lanes[kGroup][kTileRows];
  const V inverse = inverse_or_zero(scale);
  for (int64_t half = 0; half < kInt6Group / kGroup; ++half) {
    const int64_t sixteen = g * (kInt6Group / kGroup) + half;
    for (int i = 0; i < kGroup; ++i) {
      const V code = nearest_int6(mul(V::load(x + (half * kGroup + i) * kTileRows), inverse));
      store(lanes[i], add(code, V::set1(kInt6Zero)));
    }
    std::byte *nibbles = block + sixteen * 128, *high = block + kTileRows * kBlock / 2 + sixteen * 64;
    for (int r = 0; r < kTileRows; ++r) {
      int code[kGroup];
      for (int i = 0; i < kGroup; ++i) code[i] = static_cast<int>(lanes[i][r]);
      for (int i = 0; i < kGroup / 2; ++i) {
        nibbles[i / 4 * 64 + r * 4 + i % 4] = static_cast<std::byte>((code[i] & 15) | (code[i + 8] & 15) << 4);
      }
      for (int i = 0; i < 4; ++i) {
        const int bits = code[i] >> 4 | code[i + 4] >> 4 << 2 | code[i + 8] >> 4 << 4 | code[i + 12] >> 4 << 6;
        high[r * 4 + i] = static_cast<std::byte>(bits);
      }
    }
  }
  store(lanes[0], multiplier);
  std::byte* multipliers = block + kInt6Multipliers + g * kTileRows;
  for (int r = 0; r < kTileRows; ++r) multipliers[r] = static_cast<std::byte>(static_cast<int>(lanes[0][r]));
}

template <Lanes V>
void pack_int6(float* x, int64_t k, const ErrorFeedback& feedback, float* scratch, std::byte* out) {
  constexpr int64_t kGroupFloats = kInt6Group * kTileRows, kGroups = kBlock / kInt6Group;
  const int64_t groups = k / kInt6Group;
  // In units of a row's largest weight, so that squares neither overflow nor vanish.
  V largest = V::set1(0.0f);
  for (int64_t i = 0; i < k; ++i) largest = max(largest, magnitude(V::load(x + i * kTileRows)));
  largest = select_less(largest, V::set1(1e-30f), V::set1(0.0f), largest);
  const V inverse = inverse_or_zero(largest);
  for (int64_t i = 0; i < k; ++i) store(x + i * kTileRows, mul(V::load(x + i * kTileRows), inverse));

  V row_scale = V::set1(0.0f);
  for (int64_t g = 0; g < groups; ++g) {
    const float* group = x + g * kGroupFloats;
    const V scale = search_int6_scale(group, mean_square_int6<V>(group));
    store(scratch + g * kTileRows, scale);
    row_scale = max(row_scale, magnitude(scale));
  }
  row_scale = div(row_scale, V::set1(kInt6MaxMultiplier));
  // Multipliers are chosen for a row scale, then the row scale is refitted for them, then they are chosen with more care.
  V mxv = V::set1(0.0f), mmvv = V::set1(0.0f);
  for (int64_t g = 0; g < groups; ++g) {
    const float* group = x + g * kGroupFloats;
    const Int6Choice<V> choice = choose_int6(group, mean_square_int6<V>(group), row_scale, V::load(scratch + g * kTileRows), 0);
    mxv = add(mxv, mul(choice.multiplier, choice.sums.wxv));
    mmvv = add(mmvv, mul(mul(choice.multiplier, choice.multiplier), choice.sums.wvv));
  }
  row_scale = select_less(V::set1(0.0f), mxv, mul(mxv, inverse_or_zero(mmvv)), row_scale);
  for (int64_t g = 0; g < groups; ++g) {
    float* group = x + g * kGroupFloats;
    const Int6Choice<V> choice = choose_int6(group, mean_square_int6<V>(group), row_scale, V::load(scratch + g * kTileRows), 1);
    const V scale = mul(row_scale, choice.multiplier);
    if (feedback.rows != nullptr) {
      const V inverse_scale = inverse_or_zero(scale);
      feed_back<kInt6Group, V>(group, feedback, g * kInt6Group,
                               [&](V xi) { return mul(scale, nearest_int6(mul(xi, inverse_scale))); });
    }
    std::byte* block = out + g / kGroups * static_cast<int64_t>(kInt6BlockBytes);
    put_int6(group, scale, choice.multiplier, g % kGroups, block);
  }
  store(reinterpret_cast<float*>(out + k / kBlock * static_cast<int64_t>(kInt6BlockBytes)), mul(row_scale, largest));
}

}  // namespace
}  // namespace gptbigcode
