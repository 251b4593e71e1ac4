#include "sampling/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/plain_floats.h"
#include "cpu/features.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

constexpr float kExcluded = -std::numeric_limits<float>::infinity();

// Floats that the compiler keeps in a register, and their bits. Vectors are passed by reference: with AVX2, passing them by value
// would need another calling convention.
typedef float Float4 __attribute__((vector_size(16)));
typedef float Float8 __attribute__((vector_size(32)));
typedef uint32_t Bits4 __attribute__((vector_size(16)));
typedef uint32_t Bits8 __attribute__((vector_size(32)));
template <class Floats>
using BitsOf = std::conditional_t<sizeof(Floats) == sizeof(Float4), Bits4, Bits8>;
template <class Floats>
constexpr int64_t kWidth = sizeof(Floats) / sizeof(float);

template <class Floats>
[[gnu::always_inline]] inline void load(const float* from, Floats& to) {
  std::memcpy(&to, from, sizeof(Floats));
}

// Makes x, which is <= 0, 2^x: 2^n 2^r with |r| <= 1/2 and a polynomial for 2^r, relative error below 2e-7. 0 below -126 and for
// NaN.
template <class Floats>
[[gnu::always_inline]] inline void exp2_nonpositive(Floats& x) {
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
template <class Floats, size_t N>
[[gnu::always_inline]] inline float sum_of(Floats (&lanes)[N]) {
  for (size_t parts = N / 2; parts > 0; parts /= 2) {
    for (size_t j = 0; j < parts; ++j) lanes[j] += lanes[j + parts];
  }
  Float4 sums = {lanes[0][0], lanes[0][1], lanes[0][2], lanes[0][3]};
  if constexpr (kWidth<Floats> == 8) sums += Float4{lanes[0][4], lanes[0][5], lanes[0][6], lanes[0][7]};
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

#if defined(GPTBIGCODE_CPU_X86)
template <class Pass>
[[gnu::target("avx2"), gnu::noinline]] void run_avx2(const Pass& pass) {
  pass.template operator()<Float8>();
}
#endif

}  // namespace

Sampler::Sampler(SamplerOptions options)
    : options_(std::move(options)), avx2_((select_kernels("").required & kAvx2) != 0), random_(options_.seed) {
  require(std::isfinite(options_.temperature) && options_.temperature >= 0, "temperature must be a number >= 0");
  require(options_.top_k >= 0, "top_k must be >= 0");
  require(options_.top_p > 0 && options_.top_p <= 1, "top_p must be in (0, 1]");
  require(options_.min_p >= 0 && options_.min_p <= 1, "min_p must be in [0, 1]");
  require(std::isfinite(options_.repetition_penalty) && options_.repetition_penalty > 0, "repetition_penalty must be a number > 0");
  for (const auto& [id, bias] : options_.logit_bias) {
    require(id >= 0 && !std::isnan(bias), "logit_bias maps token ids >= 0 to numbers");
  }
}

int64_t Sampler::sample(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context) {
  const PlainFloats plain;
  const float* scores = process(logits, vocab_size, context, n_context);
  const float best = find_maxima(scores, vocab_size);
  require(best != kExcluded, "every token is excluded");
  if (options_.temperature == 0.0 || best == std::numeric_limits<float>::infinity()) {
    const float* group = scores + kGroup * (std::find(maxima_.data(), maxima_.data() + n_groups_, best) - maxima_.data());
    return std::find(group, scores + vocab_size, best) - scores;
  }
  ids_.clear();
  if (options_.top_k > 0 && options_.top_k < vocab_size) keep_top_k();
  const int64_t index = draw(best);
  return ids_.empty() ? index : ids_[static_cast<size_t>(index)];
}

// The scores to choose from: the logits, if nothing changes them and they need not be filled up to draw.
const float* Sampler::process(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context) {
  n_groups_ = groups_of(vocab_size);
  const bool penalises = options_.repetition_penalty != 1.0;
  if (options_.temperature == 0.0 && options_.logit_bias.empty() && !penalises) return logits;
  scores_.reserve(static_cast<size_t>(n_groups_ * kGroup));
  float* scores = scores_.data();
  std::copy_n(logits, vocab_size, scores);
  std::fill(scores + vocab_size, scores + n_groups_ * kGroup, kExcluded);
  for (const auto& [id, bias] : options_.logit_bias) {
    if (id >= vocab_size) {
      throw std::invalid_argument("logit_bias names token " + std::to_string(id) + " outside the vocabulary of " +
                                  std::to_string(vocab_size));
    }
    scores[id] += bias;
  }
  if (!penalises) return scores;
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  penalised_.assign(static_cast<size_t>(vocab_size), 0);
  for (int64_t i = 0; i < n_context; ++i) {
    const int32_t id = context[i];
    if (id < 0 || id >= vocab_size) {
      throw std::invalid_argument("context token " + std::to_string(id) + " is outside the vocabulary of " +
                                  std::to_string(vocab_size));
    }
    if (std::exchange(penalised_[static_cast<size_t>(id)], uint8_t{1}) != 0) continue;
    scores[id] = scores[id] > 0 ? scores[id] / penalty : scores[id] * penalty;
  }
  return scores;
}

// Fills maxima_ and returns the largest.
float Sampler::find_maxima(const float* candidates, int64_t count) {
  maxima_.reserve(static_cast<size_t>(n_groups_));
  uint32_t nan = 0;
  run([&]<class Floats>() __attribute__((always_inline)) {
    BitsOf<Floats> unordered = {};
    for (int64_t g = 0; g < n_groups_; ++g) {
      Floats lanes[kLanes / kWidth<Floats>];
      const float* scores = candidates + g * kGroup;
      float filled_up[kGroup];
      if (const int64_t left = count - g * kGroup; left < kGroup) {
        std::fill(std::copy_n(scores, left, filled_up), filled_up + kGroup, kExcluded);
        scores = filled_up;
      }
      std::memcpy(&lanes, scores, sizeof(lanes));
      for (int64_t i = 0; i < kGroup; i += kLanes) {
        for (Floats& lane : lanes) {
          Floats score;
          load(scores, score);
          scores += kWidth<Floats>;
          unordered |= (BitsOf<Floats>)(score != score);
          lane = score > lane ? score : lane;
        }
      }
      for (int64_t parts = kLanes / kWidth<Floats> / 2; parts > 0; parts /= 2) {
        for (int64_t j = 0; j < parts; ++j) lanes[j] = lanes[j] > lanes[j + parts] ? lanes[j] : lanes[j + parts];
      }
      float best = lanes[0][0];
      for (int64_t j = 1; j < kWidth<Floats>; ++j) best = lanes[0][j] > best ? lanes[0][j] : best;
      maxima_.data()[g] = best;
    }
    for (int64_t j = 0; j < kWidth<Floats>; ++j) nan |= unordered[j];
  });
  require(nan == 0, "the logits contain NaN");
  return *std::max_element(maxima_.data(), maxima_.data() + n_groups_);
}

// Reduces the candidates to the top_k best; of equals the first.
void Sampler::keep_top_k() {
  const float* scores = scores_.data();
  const auto wanted = static_cast<std::ptrdiff_t>(options_.top_k);
  // As many groups as there are tokens wanted have a maximum of at least this, so the wanted ones have that, too.
  float threshold = std::numeric_limits<float>::lowest();
  if (wanted <= n_groups_) {
    weights_.reserve(static_cast<size_t>(n_groups_));
    float* order = std::copy_n(maxima_.data(), n_groups_, weights_.data()) - n_groups_;
    std::nth_element(order, order + wanted - 1, order + n_groups_, std::greater<>());
    threshold = std::max(threshold, order[wanted - 1]);
  }
  for (int64_t g = 0; g < n_groups_; ++g) {
    if (maxima_.data()[g] < threshold) continue;
    for (int64_t i = g * kGroup; i < (g + 1) * kGroup; ++i) {
      if (scores[i] >= threshold) ids_.push_back(static_cast<int32_t>(i));
    }
  }
  if (wanted < std::ssize(ids_)) {
    const auto better = [&](int32_t a, int32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; };
    std::nth_element(ids_.begin(), ids_.begin() + wanted, ids_.end(), better);
    ids_.resize(static_cast<size_t>(wanted));
    std::sort(ids_.begin(), ids_.end());
  }
  n_groups_ = groups_of(std::ssize(ids_));
  float* kept = scores_.data();
  for (const int32_t id : ids_) *kept++ = scores[id];  // ids ascend: nothing is overwritten before it is read
  std::fill(kept, scores_.data() + n_groups_ * kGroup, kExcluded);
  find_maxima(scores_.data(), std::ssize(ids_));
}

// The index of the chosen candidate. Candidates propose themselves by their weight; if the proposed one is excluded by top_p or
// min_p, so are those behind it, and those before it propose again. So accepted ones have the right probabilities, and nothing
// is sorted.
int64_t Sampler::draw(float best) {
  const double total = weigh(best);
  for (double proposals = total;;) {
    const int64_t index = pick(static_cast<double>(random_() >> 11) * 0x1p-53 * proposals);
    const bool probable = static_cast<double>(weights_.data()[index]) >= options_.min_p;
    if (probable && options_.top_p == 1.0) return index;
    proposals = keep_before(index);
    if (probable && proposals < options_.top_p * total) return index;
  }
}

// Fills weights_ and sums_ and returns the sum of all.
double Sampler::weigh(float best) {
  weights_.reserve(static_cast<size_t>(n_groups_ * kGroup));
  sums_.reserve(static_cast<size_t>(n_groups_));
  constexpr double kLog2E = 1.4426950408889634;
  const auto scale = static_cast<float>(std::min(kLog2E / options_.temperature, double{std::numeric_limits<float>::max()}));
  double total = 0;
  run([&]<class Floats>() __attribute__((always_inline)) {
    constexpr int64_t kParts = kLanes / kWidth<Floats>;
    const Floats maximum = Floats{} + best, factor = Floats{} + scale;
    for (int64_t g = 0; g < n_groups_; ++g) {
      const float* scores = scores_.data() + g * kGroup;
      float* weights = weights_.data() + g * kGroup;
      Floats sum[kParts] = {};
      for (int64_t i = 0; i < kGroup; i += kLanes) {
        for (int64_t part = 0; part < kParts; ++part) {
          Floats weight;
          load(scores, weight);
          weight = (weight - maximum) * factor;
          exp2_nonpositive(weight);
          sum[part] += weight;
          std::memcpy(weights, &weight, sizeof(weight));
          scores += kWidth<Floats>;
          weights += kWidth<Floats>;
        }
      }
      sums_.data()[g] = sum_of(sum);
      total += static_cast<double>(sums_.data()[g]);
    }
  });
  return total;
}

// The first candidate up to which the weights exceed target, or the last one, if rounding has put the target behind it.
int64_t Sampler::pick(double target) const {
  const auto find = [&](const float* weights, int64_t begin, int64_t end) {
    int64_t last = begin;
    for (int64_t i = begin; i < end; ++i) {
      if (weights[i] == 0.0F) continue;
      last = i;
      if (target < static_cast<double>(weights[i])) break;
      target -= static_cast<double>(weights[i]);
    }
    return last;
  };
  const int64_t group = find(sums_.data(), 0, n_groups_);
  return find(weights_.data(), group * kGroup, (group + 1) * kGroup);
}

// Takes the weight of a candidate and of all behind it; of equal scores the first is before the others. Returns what is left.
double Sampler::keep_before(int64_t index) {
  const float score = scores_.data()[index];
  double left = 0;
  run([&]<class Floats>() __attribute__((always_inline)) {
    constexpr int64_t kParts = kLanes / kWidth<Floats>;
    for (int64_t g = 0; g < n_groups_; ++g) {
      sums_.data()[g] = 0;
      if (maxima_.data()[g] < score) continue;
      const float* scores = scores_.data() + g * kGroup;
      float* weights = weights_.data() + g * kGroup;
      const auto ties = static_cast<uint32_t>(std::clamp<int64_t>(index - g * kGroup, 0, kGroup));  // that are before the candidate
      BitsOf<Floats> place;
      for (uint32_t j = 0; j < kWidth<Floats>; ++j) place[j] = j;
      Floats sum[kParts] = {};
      for (int64_t i = 0; i < kGroup; i += kLanes) {
        for (int64_t part = 0; part < kParts; ++part) {
          Floats other, weight;
          load(scores, other);
          load(weights, weight);
          weight = (other > score) | ((other == score) & (place < ties)) ? weight : Floats{};
          sum[part] += weight;
          std::memcpy(weights, &weight, sizeof(weight));
          scores += kWidth<Floats>;
          weights += kWidth<Floats>;
          place += static_cast<uint32_t>(kWidth<Floats>);
        }
      }
      sums_.data()[g] = sum_of(sum);
      left += static_cast<double>(sums_.data()[g]);
    }
  });
  return left;
}

// Calls a pass over the candidates, which the compiler inlines into two functions, one of them with wider vectors. Neither
// contracts or reorders the arithmetic, so both give the same bits.
template <class Pass>
void Sampler::run(const Pass& pass) const {
#if defined(GPTBIGCODE_CPU_X86)
  if (avx2_) return run_avx2(pass);
#endif
  pass.template operator()<Float4>();
}

}  // namespace gptbigcode
