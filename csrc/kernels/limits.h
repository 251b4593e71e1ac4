// Measures what the machine can do at best. A decode step is compared with the one, a prefill with the other.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace gptbigcode {

// Some memory, 4-byte aligned.
struct Memory {
  const std::byte* data;
  size_t nbytes;
};

// Bytes per second that the threads read together. Tries several ways to read, with one pass each, and returns the best.
double read_bandwidth(const Kernels& kernels, ThreadPool& pool, const std::vector<Memory>& memory);

// int8 multiply-adds per second of the threads together. Best of several passes.
double int8_peak(const Kernels& kernels, ThreadPool& pool);

}  // namespace gptbigcode
