// Chooses the next token. The same seed, logits and context give the same tokens on every CPU. So nothing here uses functions such
// as exp of the C library, whose last bit differs between machines, and the order of sums does not depend on the width of vectors.
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"

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

// Random numbers come from std::mt19937_64 seeded with `seed`, whose output the C++ standard fixes. A token that is
// drawn takes one number, and one more for each proposal that top_p or min_p excludes.
class Sampler {
 public:
  // Throws std::invalid_argument for a value outside its range.
  Sampler(SamplerOptions options, const Kernels& kernels);

  // logits: [vocab_size]; context: tokens so far, for the repetition penalty.
  // Throws std::invalid_argument for NaN, for a bias or context token outside the vocabulary, or if every token is excluded.
  int64_t sample(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context);

 private:
  static int64_t groups_of(int64_t count) { return (count + kSamplingGroup - 1) / kSamplingGroup; }
  const float* process(const float* logits, int64_t vocab_size, const int32_t* context, int64_t n_context);
  float find_maxima(const float* candidates, int64_t count);
  void keep_top_k();
  int64_t draw(float best);
  double weigh(float best);
  int64_t pick(double target) const;
  Candidates candidates() const;

  const SamplerOptions options_;
  const SamplingKernels& kernels_;
  std::mt19937_64 random_;
  int64_t n_groups_ = 0;          // of candidates; the last group is filled up with scores of -inf
  AlignedBuffer<float> scores_;   // of the candidates, where they are not the logits themselves
  AlignedBuffer<float> maxima_;   // of each group's scores
  AlignedBuffer<float> weights_;  // probability of each candidate over that of the best; unset where the group's sum is 0
  AlignedBuffer<float> sums_;     // of each group's weights
  std::vector<int32_t> ids_;      // of the candidates, ascending; empty: all tokens
  std::vector<uint8_t> penalised_;
};

}  // namespace gptbigcode
