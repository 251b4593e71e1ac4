#include "model/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"

namespace gptbigcode {
namespace {

// exp(x) for x <= 0 by x = n ln 2 + r and a Taylor series; plain IEEE operations only, relative error about 1e-15.
double exp_nonpositive(double x) {
  if (!(x > -700.0)) return 0.0;
  const double n = std::floor(x * 1.4426950408889634 + 0.5);
  const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double sum = 1.0;
  for (int i = 13; i > 0; --i) sum = 1.0 + sum * r / i;
  return sum * std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52);
}

constexpr float kExcluded = -std::numeric_limits<float>::infinity();

}  // namespace

Sampler::Sampler(SamplerOptions options) : options_(std::move(options)), random_(options_.seed) {
  require(std::isfinite(options_.temperature) && options_.temperature >= 0, "temperature must be a number >= 0");
  require(options_.top_k >= 0, "top_k must be >= 0");
  require(options_.top_p > 0 && options_.top_p <= 1, "top_p must be in (0, 1]");
  require(options_.min_p >= 0 && options_.min_p <= 1, "min_p must be in [0, 1]");
  require(std::isfinite(options_.repetition_penalty) && options_.repetition_penalty > 0, "repetition_penalty must be a number > 0");
  for (const auto& [id, bias] : options_.logit_bias) {
    require(id >= 0 && !std::isnan(bias), "logit_bias maps token ids >= 0 to numbers");
  }
}

void Sampler::process(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context) {
  scores_.assign(logits, logits + vocab_size);
  for (const auto& [id, bias] : options_.logit_bias) {
    require(id < vocab_size,
            "logit_bias names token " + std::to_string(id) + " outside the vocabulary of " + std::to_string(vocab_size));
    scores_[static_cast<size_t>(id)] += bias;
  }
  if (options_.repetition_penalty == 1.0) return;
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  std::vector<int32_t> seen(context, context + n_context);
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (const int32_t id : seen) {
    require(id >= 0 && id < vocab_size,
            "context token " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(vocab_size));
    float& score = scores_[static_cast<size_t>(id)];
    score = score > 0 ? score / penalty : score * penalty;
  }
}

int64_t Sampler::sample(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context) {
  process(logits, vocab_size, context, n_context);
  float best = kExcluded;
  int64_t best_id = -1;
  for (int64_t i = 0; i < vocab_size; ++i) {
    const float score = scores_[static_cast<size_t>(i)];
    require(!std::isnan(score), "the logits contain NaN");
    if (score > best) {
      best = score;
      best_id = i;
    }
  }
  require(best_id >= 0, "every token is excluded");
  if (options_.temperature == 0.0 || best == std::numeric_limits<float>::infinity()) return best_id;

  // Weight relative to the best token.
  const double inverse_temperature = std::min(1.0 / options_.temperature, std::numeric_limits<double>::max());
  const auto weight = [&](float score) {
    return exp_nonpositive((static_cast<double>(score) - static_cast<double>(best)) * inverse_temperature);
  };
  const auto better = [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; };

  candidates_.clear();
  for (int64_t i = 0; i < vocab_size; ++i) {
    const float score = scores_[static_cast<size_t>(i)];
    if (score != kExcluded) candidates_.push_back({score, static_cast<int32_t>(i)});
  }
  size_t sorted = 0;  // candidates in front that are in order
  const auto sort_front = [&](size_t count) {
    std::partial_sort(candidates_.begin() + static_cast<std::ptrdiff_t>(sorted),
                      candidates_.begin() + static_cast<std::ptrdiff_t>(count), candidates_.end(), better);
    sorted = count;
  };
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    sort_front(static_cast<size_t>(options_.top_k));
    candidates_.resize(static_cast<size_t>(options_.top_k));
  }
  weights_.clear();
  if (options_.top_p < 1.0) {
    double total = 0;
    for (const Candidate& c : candidates_) total += weight(c.logit);
    double before = 0;  // keep a token if those before it do not reach top_p yet
    size_t kept = 0;
    while (kept < candidates_.size() && (kept == 0 || before < options_.top_p * total)) {
      if (kept == sorted) sort_front(std::min(candidates_.size(), std::max<size_t>(64, 4 * sorted)));
      weights_.push_back(weight(candidates_[kept].logit));
      before += weights_.back();
      ++kept;
    }
    candidates_.resize(kept);
  } else {
    for (const Candidate& c : candidates_) weights_.push_back(weight(c.logit));
  }
  if (options_.min_p > 0) {
    for (double& w : weights_) w = w < options_.min_p ? 0.0 : w;  // the best token's weight is 1
  }

  double total = 0;
  for (const double w : weights_) total += w;
  const double target = static_cast<double>(random_() >> 11) * 0x1p-53 * total;
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (weights_[i] == 0.0) continue;
    last = i;
    sum += weights_[i];
    if (target < sum) break;
  }
  return candidates_[last].id;
}

}  // namespace gptbigcode
