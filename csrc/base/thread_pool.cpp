#include "base/thread_pool.h"

#include <unistd.h>

#include <stdexcept>

#include "cpu/topology.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gptbigcode {
namespace {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// About 30 us: pause takes 10 to 40 ns on the CPUs of the last ten years.
constexpr int kSpins = 1500;

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : size_(num_threads), spins_(num_threads <= available_cpus() ? kSpins : 0), owner_(getpid()) {
  threads_.reserve(static_cast<size_t>(size_ - 1));
  try {
    for (int t = 1; t < size_; ++t) threads_.emplace_back([this, t] { work(t); });
  } catch (...) {
    stopping_ = true;
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (auto& thread : threads_) thread.join();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() != owner_) {  // after fork() there is nobody to join
    for (auto& thread : threads_) thread.detach();
    return;
  }
  stopping_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::wait_while(const std::atomic<int>& value, int old) const {
  for (int i = 0; i < spins_; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void ThreadPool::barrier() {
  const int phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  } else {
    wait_while(phase_, phase);
  }
}

void ThreadPool::start(Task task, void* context) {
  if (getpid() != owner_) {
    throw std::runtime_error(
        "the process was forked after the model was loaded, and threads do not survive fork(); load the model in the child");
  }
  task_ = task;
  context_ = context;
  if (size_ > 1) {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }
  task(context, 0);
  if (size_ > 1) barrier();
}

void ThreadPool::work(int thread) {
  for (int epoch = 0;; ++epoch) {
    wait_while(epoch_, epoch);
    if (stopping_) return;
    task_(context_, thread);
    barrier();
  }
}

}  // namespace gptbigcode
