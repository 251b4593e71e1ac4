// Quantises the sixteen rows of a tile to int4. Each row has a lane, so no sum runs across lanes.
// How a group's multiplier and offset are chosen, and why: docs/quantization-study.md.
#pragma once

#include "kernels/generic/lanes.h"

namespace gptbigcode {
namespace {

// 1 / x where x is not zero, else 0
template <Lanes V>
inline V inverse_or_zero(V x) {
  const V zero = V::set1(0.0f);
  return select_less(zero, magnitude(x), div(V::set1(1.0f), x), zero);
}

// value(code) for the code that is nearest to x, which is given in units of the codebook. Code c begins in the middle between the
// entries of c - 1 and c.
template <Lanes V, class Value>
inline V nearest(V x, Value value) {
  V result = V::set1(value(0));
#pragma GCC unroll 16
  for (int c = 1; c < 16; ++c) {
    const float middle = static_cast<float>(kInt4Codebook[c - 1] + kInt4Codebook[c]) / 2.0f;
    result = select_less(V::set1(middle), x, V::set1(value(c)), result);
  }
  return result;
}

// Sums over a group that is coded with a scale and an offset: v = entry + offset, and w is the weight of an error.
template <Lanes V>
struct Int4Fit {
  V wxv, wvv;
};
// x, w: [kSize][16 rows]
template <int kSize, Lanes V>
inline Int4Fit<V> fit_int4(const float* x, const float* w, V inverse_scale, float offset) {
  Int4Fit<V> sums{V::set1(0.0f), V::set1(0.0f)};
  for (int i = 0; i < kSize * kTileRows; i += kTileRows) {
    const V xi = V::load(x + i);
    const V entry =
        nearest(sub(mul(xi, inverse_scale), V::set1(offset)), [](int c) { return static_cast<float>(kInt4Codebook[c]); });
    const V v = add(entry, V::set1(offset)), wv = mul(V::load(w + i), v);
    sums.wxv = add(sums.wxv, mul(wv, xi));
    sums.wvv = add(sums.wvv, mul(wv, v));
  }
  return sums;
}

// The weight of an error at x is x^2 plus the group's mean of x^2. Where errors are fed back, this is multiplied with the weight of
// the column.
template <int kSize, Lanes V>
inline void weigh_int4(const float* x, const ErrorFeedback& feedback, int64_t column, float* w) {
  V sum = V::set1(0.0f);
  for (int i = 0; i < kSize * kTileRows; i += kTileRows) sum = add(sum, mul(V::load(x + i), V::load(x + i)));
  const V mean = mul(sum, V::set1(1.0f / kSize));
  for (int i = 0; i < kSize; ++i) {
    const V xi = V::load(x + i * kTileRows), weight = add(mul(xi, xi), mean);
    store(w + i * kTileRows, feedback.rows == nullptr ? weight : mul(weight, V::set1(feedback.importance(column + i))));
  }
}

// Finds a group's scale, which may have either sign. A candidate puts the weight of largest magnitude near an end of the codebook;
// its scale is then refitted by least squares. There are four candidates for each end and offset, of which the best is taken.
template <int kSize, Lanes V>
inline V search_int4_scale(const float* x, const float* w) {
  V extreme = V::set1(0.0f);
  for (int i = 0; i < kSize * kTileRows; i += kTileRows) {
    const V xi = V::load(x + i);
    extreme = select_less(magnitude(extreme), magnitude(xi), xi, extreme);
  }
  extreme = select_less(magnitude(extreme), V::set1(1e-30f), V::set1(0.0f), extreme);
  const V inverse = inverse_or_zero(extreme);
  V best_gain = V::set1(0.0f), best = V::set1(0.0f);
  constexpr float kEnds[] = {-11.25f, -13.2f, -15.0f, -16.5f, 11.25f, 13.2f, 15.0f, 16.5f};
  for (const float end : kEnds) {
    for (int offset = kInt4MinOffset; offset <= kInt4MaxOffset; ++offset) {
      const Int4Fit<V> sums = fit_int4<kSize>(x, w, mul(inverse, V::set1(end)), static_cast<float>(offset));
      const V scale = mul(sums.wxv, inverse_or_zero(sums.wvv));
      const V gain = mul(sums.wxv, scale);  // sum w x^2 less the error
      best = select_less(best_gain, gain, scale, best);
      best_gain = max(gain, best_gain);
    }
  }
  return best;
}

template <Lanes V>
struct Int4Choice {
  V multiplier, offset;
  Int4Fit<V> sums;
};
// For given row scales: the best multiplier and offset, trying both signs, all offsets, and the multipliers within `reach` of the
// wanted scale.
template <int kSize, Lanes V>
inline Int4Choice<V> choose_int4(const float* x, const float* w, V row_scale, V wanted, int reach) {
  const V zero = V::set1(0.0f);
  const V ratio = mul(magnitude(wanted), inverse_or_zero(row_scale));
  const V rounded = sub(add(min(ratio, V::set1(kInt4MaxMultiplier)), V::set1(kMagic)), V::set1(kMagic));
  Int4Choice<V> best{zero, zero, {zero, zero}};
  V best_gain = zero;
  constexpr float kSigns[] = {1.0f, -1.0f};
  for (int step = -reach; step <= reach; ++step) {
    const V shifted = add(rounded, V::set1(static_cast<float>(step)));
    for (const float sign : kSigns) {
      const V multiplier = mul(min(max(shifted, V::set1(1.0f)), V::set1(kInt4MaxMultiplier)), V::set1(sign));
      const V scale = mul(row_scale, multiplier), inverse = inverse_or_zero(scale);
      for (int offset = kInt4MinOffset; offset <= kInt4MaxOffset; ++offset) {
        const Int4Fit<V> sums = fit_int4<kSize>(x, w, inverse, static_cast<float>(offset));
        const V gain = mul(scale, sub(add(sums.wxv, sums.wxv), mul(scale, sums.wvv)));
        best.multiplier = select_less(best_gain, gain, multiplier, best.multiplier);
        best.offset = select_less(best_gain, gain, V::set1(static_cast<float>(offset)), best.offset);
        best.sums.wxv = select_less(best_gain, gain, sums.wxv, best.sums.wxv);
        best.sums.wvv = select_less(best_gain, gain, sums.wvv, best.sums.wvv);
        best_gain = max(gain, best_gain);
      }
    }
  }
  return best;
}

// Goes through the columns of a group, of which x is the first. What quantising a column loses is added to the columns after it.
template <int kSize, Lanes V, class Quantise>
inline void feed_back(float* x, const ErrorFeedback& feedback, int64_t column, Quantise quantise) {
  for (int i = 0; i < kSize; ++i) {
    const V xi = V::load(x + i * kTileRows), error = sub(quantise(xi), xi);
    const float* factors = feedback.row(column + i);
    const int64_t span_end = feedback.span_end(column + i);
    for (int64_t j = column + i + 1; j < span_end; ++j) {
      float* later = x + (j - column) * kTileRows;
      store(later, fma(error, V::set1(factors[j % feedback.span]), V::load(later)));
    }
  }
}

// Writes the codes and the byte of a group into its block. The codes of sixteen columns follow those of the sixteen before.
template <int kSize, Lanes V>
inline void put_int4(const float* x, V row_scale, const Int4Choice<V>& choice, std::byte* codes, std::byte* bytes) {
  alignas(64) float lanes[kGroup][kTileRows];
  const V inverse = inverse_or_zero(mul(row_scale, choice.multiplier));
  for (int begin = 0; begin < kSize; begin += kGroup, codes += kTileRows * kGroup / 2) {
    for (int i = 0; i < kGroup; ++i) {
      const V unit = sub(mul(V::load(x + (begin + i) * kTileRows), inverse), choice.offset);
      store(lanes[i], nearest(unit, [](int c) { return static_cast<float>(c); }));
    }
    for (int i = 0; i < kGroup / 2; ++i) {
      for (int r = 0; r < kTileRows; ++r) {
        const int pair = static_cast<int>(lanes[i][r]) | static_cast<int>(lanes[i + kGroup / 2][r]) << 4;
        codes[i / 4 * 64 + r * 4 + i % 4] = static_cast<std::byte>(pair);
      }
    }
  }
  store(lanes[0], sub(add(mul(choice.multiplier, V::set1(4.0f)), choice.offset), V::set1(kInt4MinOffset)));
  for (int r = 0; r < kTileRows; ++r) bytes[r] = static_cast<std::byte>(static_cast<int>(lanes[0][r]));
}

template <Lanes V>
void pack_int4(float* x, int64_t k, const ErrorFeedback& feedback, float* scratch, std::byte* out) {
  constexpr int kSize = kBlock;
  const int64_t groups = k / kSize, group_floats = kSize * kTileRows;
  alignas(64) float w[kSize * kTileRows];
  // In units of a row's largest weight, so that squares neither overflow nor vanish.
  V largest = V::set1(0.0f);
  for (int64_t i = 0; i < k; ++i) largest = max(largest, magnitude(V::load(x + i * kTileRows)));
  largest = select_less(largest, V::set1(1e-30f), V::set1(0.0f), largest);
  const V inverse = inverse_or_zero(largest);
  for (int64_t i = 0; i < k; ++i) store(x + i * kTileRows, mul(V::load(x + i * kTileRows), inverse));

  V row_scale = V::set1(0.0f);
  for (int64_t g = 0; g < groups; ++g) {
    weigh_int4<kSize, V>(x + g * group_floats, feedback, g * kSize, w);
    const V scale = search_int4_scale<kSize, V>(x + g * group_floats, w);
    store(scratch + g * kTileRows, scale);
    row_scale = max(row_scale, magnitude(scale));
  }
  row_scale = div(row_scale, V::set1(kInt4MaxMultiplier));
  // Multipliers are chosen for a row scale, then the row scale is refitted for them, then they are chosen with more care.
  V mxv = V::set1(0.0f), mmvv = V::set1(0.0f);
  for (int64_t g = 0; g < groups; ++g) {
    weigh_int4<kSize, V>(x + g * group_floats, feedback, g * kSize, w);
    const Int4Choice<V> choice = choose_int4<kSize>(x + g * group_floats, w, row_scale, V::load(scratch + g * kTileRows), 0);
    mxv = add(mxv, mul(choice.multiplier, choice.sums.wxv));
    mmvv = add(mmvv, mul(mul(choice.multiplier, choice.multiplier), choice.sums.wvv));
  }
  row_scale = select_less(V::set1(0.0f), mxv, mul(mxv, inverse_or_zero(mmvv)), row_scale);
  for (int64_t g = 0; g < groups; ++g) {
    weigh_int4<kSize, V>(x + g * group_floats, feedback, g * kSize, w);
    const Int4Choice<V> choice = choose_int4<kSize>(x + g * group_floats, w, row_scale, V::load(scratch + g * kTileRows), 1);
    if (feedback.rows != nullptr) {
      const V scale = mul(row_scale, choice.multiplier), inverse_scale = inverse_or_zero(scale);
      feed_back<kSize, V>(x + g * group_floats, feedback, g * kSize, [&](V xi) {
        const V unit = sub(mul(xi, inverse_scale), choice.offset);
        return mul(scale, add(nearest(unit, [](int c) { return static_cast<float>(kInt4Codebook[c]); }), choice.offset));
      });
    }
    std::byte* block = out + g * static_cast<int64_t>(kInt4BlockBytes);
    put_int4<kSize>(x + g * group_floats, row_scale, choice, block, block + kTileRows * kBlock / 2);
  }
  store(reinterpret_cast<float*>(out + groups * static_cast<int64_t>(kInt4BlockBytes)), mul(row_scale, largest));
}

}  // namespace
}  // namespace gptbigcode
