// The passes of the sampler over its candidates. They have no other arithmetic than what is written in kernels/generic/sampling.h:
// sums are partial sums of sixteen lanes, whatever the width of vectors, and nothing is contracted or reordered. So every kernel
// set draws the same tokens.
#pragma once

#include <cstdint>

namespace gptbigcode {

inline constexpr int64_t kSamplingGroup = 64;  // candidates that are summed, skipped or searched together

// Arrays of the candidates, which are `groups` times 64. The last group is filled up with scores of -infinity.
struct Candidates {
  const float* scores;
  const float* maxima;  // [groups]: of each group's scores
  float* weights;       // the probability of each candidate over that of the best; unset where the group's sum is 0
  float* sums;          // [groups]: of each group's weights
  int64_t groups;
};

struct SamplingKernels {
  // Fills maxima[ceil(count/64)] from the scores of `count` candidates. Returns whether one of them is NaN.
  bool (*find_maxima)(const float* scores, int64_t count, float* maxima);
  // Fills weights and sums with 2^((score - best) * scale). Returns the sum of all.
  double (*weigh)(const Candidates&, float best, float scale);
  // Takes the weight of a candidate and of all that are behind it: those with a lower score, and of equal scores the later ones.
  // Returns the sum of what is left.
  double (*keep_before)(const Candidates&, int64_t index);
};

}  // namespace gptbigcode
