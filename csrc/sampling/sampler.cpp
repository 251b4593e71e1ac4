#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/plain_floats.h"

namespace gptbigcode {
namespace {

constexpr float kExcluded = -std::numeric_limits<float>::infinity();

}  // namespace

Sampler::Sampler(SamplerOptions options, const Kernels& kernels)
    : options_(std::move(options)), kernels_(kernels.sampling), random_(options_.seed) {
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
    const float* group = scores + kSamplingGroup * (std::find(maxima_.data(), maxima_.data() + n_groups_, best) - maxima_.data());
    return std::find(group, scores + vocab_size, best) - scores;
  }
  ids_.clear();
  if (options_.top_k > 0 && options_.top_k < vocab_size) keep_top_k();
  const int64_t index = draw(best);
  return ids_.empty() ? index : ids_[static_cast<size_t>(index)];
}

// The scores to choose from. These are the logits themselves if nothing changes them and nothing is drawn, since only drawing needs
// the last group filled up.
const float* Sampler::process(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context) {
  n_groups_ = groups_of(vocab_size);
  const bool penalises = options_.repetition_penalty != 1.0;
  if (options_.temperature == 0.0 && options_.logit_bias.empty() && !penalises) return logits;
  scores_.reserve(static_cast<size_t>(n_groups_ * kSamplingGroup));
  float* scores = scores_.data();
  std::copy_n(logits, vocab_size, scores);
  std::fill(scores + vocab_size, scores + n_groups_ * kSamplingGroup, kExcluded);
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
  const bool nan = kernels_.find_maxima(candidates, count, maxima_.data());
  require(!nan, "the logits contain NaN");
  return *std::max_element(maxima_.data(), maxima_.data() + n_groups_);
}

// Reduces the candidates to the top_k best. Of equal scores, the first tokens are kept.
void Sampler::keep_top_k() {
  const float* scores = scores_.data();
  const auto wanted = static_cast<std::ptrdiff_t>(options_.top_k);
  // top_k groups have a maximum of at least this, so each of the top_k best tokens has at least this score.
  float threshold = std::numeric_limits<float>::lowest();
  if (wanted <= n_groups_) {
    weights_.reserve(static_cast<size_t>(n_groups_));
    float* order = std::copy_n(maxima_.data(), n_groups_, weights_.data()) - n_groups_;
    std::nth_element(order, order + wanted - 1, order + n_groups_, std::greater<>());
    threshold = std::max(threshold, order[wanted - 1]);
  }
  for (int64_t g = 0; g < n_groups_; ++g) {
    if (maxima_.data()[g] < threshold) continue;
    for (int64_t i = g * kSamplingGroup; i < (g + 1) * kSamplingGroup; ++i) {
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
  std::fill(kept, scores_.data() + n_groups_ * kSamplingGroup, kExcluded);
  find_maxima(scores_.data(), std::ssize(ids_));
}

// Returns the index of the chosen candidate. A candidate is proposed with a probability that follows its weight. If top_p or min_p
// excludes it, they exclude all less likely ones as well, and the next proposal comes from the others. So each candidate is
// accepted with the right probability, and nothing has to be sorted.
int64_t Sampler::draw(float best) {
  const double total = weigh(best);
  for (double proposals = total;;) {
    const int64_t index = pick(static_cast<double>(random_() >> 11) * 0x1p-53 * proposals);
    const bool probable = static_cast<double>(weights_.data()[index]) >= options_.min_p;
    if (probable && options_.top_p == 1.0) return index;
    proposals = kernels_.keep_before(candidates(), index);
    if (probable && proposals < options_.top_p * total) return index;
  }
}

Candidates Sampler::candidates() const { return {scores_.data(), maxima_.data(), weights_.data(), sums_.data(), n_groups_}; }

// Fills weights_ and sums_ and returns the sum of all.
double Sampler::weigh(float best) {
  weights_.reserve(static_cast<size_t>(n_groups_ * kSamplingGroup));
  sums_.reserve(static_cast<size_t>(n_groups_));
  constexpr double kLog2E = 1.4426950408889634;
  const auto scale = static_cast<float>(std::min(kLog2E / options_.temperature, double{std::numeric_limits<float>::max()}));
  return kernels_.weigh(candidates(), best, scale);
}

// The first candidate at which the sum of the weights up to it exceeds target, or the last one if rounding let target exceed them
// all.
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
  return find(weights_.data(), group * kSamplingGroup, (group + 1) * kSamplingGroup);
}

}  // namespace gptbigcode
