// A linear layer on a batch of rows. If its weights are integers, its input is quantised first. Its outputs are cut into items.
#pragma once

#include "kernels/kernels.h"
#include "model/weights.h"

namespace gptbigcode {

// Quantises row `row` of x [m][k] into blocks [ceil(k/128)][m]; nothing to do for float weights.
void quantize_row(const Kernels& kernels, const Linear& layer, const float* x, int64_t row, int64_t m, ActivationBlock* blocks);

struct LinearCall {
  const float* x = nullptr;                 // [m][k]
  const ActivationBlock* blocks = nullptr;  // of x
  int64_t m = 0;
  float* out = nullptr;    // [m][out_stride]; not written if out_blocks is set
  int64_t out_stride = 0;  // 0: n
  bool accumulate = false;
  const Activation* activation = nullptr;  // applied to the output
  ActivationBlock* out_blocks = nullptr;   // if set, the quantised output goes here, [ceil(n/128)][m]
  float* halves_sum = nullptr;             // if set, [m/2][n]: the sums of rows r and m/2 + r of out
};

// How many items a call is cut into for a team of threads.
int64_t linear_items(const Linear& layer, const LinearCall& call, int team);
// How many floats of scratch a thread needs for a call.
int64_t linear_scratch(const Linear& layer, const LinearCall& call, int team);
// Does one item. scratch: of this thread, 64-byte aligned.
void run_linear(const Kernels& kernels, const Linear& layer, const LinearCall& call, int team, int64_t item, float* scratch);

}  // namespace gptbigcode
