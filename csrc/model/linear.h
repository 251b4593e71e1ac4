// A linear layer on a batch of rows: quantise its input if its weights are integers, then tiles shared out among threads.
#pragma once

#include <atomic>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/weights.h"

namespace gptbigcode {

// Work of one phase, handed out in chunks: threads that run slower take fewer.
class WorkQueue {
 public:
  void reset() { next_.store(0, std::memory_order_relaxed); }
  // The next chunk of at most `chunk` items below `end`; false when there is none.
  bool take(int64_t end, int64_t chunk, int64_t* first, int64_t* last) {
    if (next_.load(std::memory_order_relaxed) >= end) return false;
    *first = next_.fetch_add(chunk, std::memory_order_relaxed);
    *last = *first + chunk < end ? *first + chunk : end;
    return *first < end;
  }

 private:
  alignas(64) std::atomic<int64_t> next_{0};
};

// Quantises row `row` of x [m][k] into blocks [ceil(k/128)][m]; nothing to do for float weights.
void quantize_row(const Kernels& kernels, const Linear& layer, const float* x, int64_t row, int64_t m, ActivationBlock* blocks);

struct LinearCall {
  const float* x = nullptr;                 // [m][k]
  const ActivationBlock* blocks = nullptr;  // of x
  int64_t m = 0;
  float* out = nullptr;    // [m][out_stride]
  int64_t out_stride = 0;  // 0: n
  bool accumulate = false;
  const Activation* activation = nullptr;  // applied to the output
  ActivationBlock* out_blocks = nullptr;   // if set, the output quantised, [ceil(n/128)][m]
  float* halves_sum = nullptr;             // if set, [m/2][n]: rows r and m/2 + r of out, added
};
// Called by every thread of a team; the caller places the barriers before (input ready, queue reset) and after.
// scratch: kLinearScratch floats of this thread.
void run_linear(const Kernels& kernels, const Linear& layer, const LinearCall& call, int team, WorkQueue& queue, float* scratch);

}  // namespace gptbigcode
