// Chooses the next token. Same seed, logits and context: same tokens on every CPU, so nothing here uses the C library's
// transcendental functions, whose last bit differs between machines.
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace gptbigcode {

struct SamplerOptions {
  double temperature = 0.0;  // 0: greedy
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  std::vector<std::pair<int64_t, float>> logit_bias;
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(SamplerOptions options);  // throws std::invalid_argument for a value outside its range

  // logits: [vocab_size]; context: tokens so far, for the repetition penalty.
  // Throws std::invalid_argument for NaN, for a bias or context token outside the vocabulary, or if every token is excluded.
  int64_t sample(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  void process(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context);

  const SamplerOptions options_;
  std::mt19937_64 random_;
  std::vector<float> scores_;
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
};

}  // namespace gptbigcode
