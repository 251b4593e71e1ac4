// What the machine can do at best, measured: the yardsticks of a decode step and of a prefill.
#pragma once

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace gptbigcode {

// Bytes per second that the threads read together, each its own part of `nbytes` of memory. Best of several passes.
double read_bandwidth(ThreadPool& pool, size_t nbytes);

// int8 multiply-adds per second of the threads together. Best of several passes.
double int8_peak(const Kernels& kernels, ThreadPool& pool);

}  // namespace gptbigcode
