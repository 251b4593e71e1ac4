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

// More than the threads a model can be given.
constexpr unsigned kTeams = 2048;

int next_epoch(int epoch, int team) {  // unsigned: wraps after two million regions, and only equality matters
  return static_cast<int>((static_cast<unsigned>(epoch) / kTeams + 1) * kTeams + static_cast<unsigned>(team));
}
int team_of(int epoch) { return static_cast<int>(static_cast<unsigned>(epoch) % kTeams); }

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : size_(num_threads), spins_(num_threads <= available_cpus() ? kSpins : 0), owner_(getpid()) {
  threads_.reserve(static_cast<size_t>(size_ - 1));
  try {
    for (int t = 1; t < size_; ++t) threads_.emplace_back([this, t] { work(t); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() == owner_) {
    stop();
  } else {  // after fork() there is nobody to join
    for (auto& thread : threads_) thread.detach();
  }
}

void ThreadPool::stop() {
  epoch_.store(next_epoch(epoch_.load(std::memory_order_relaxed), 0), std::memory_order_release);
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

void ThreadPool::start(int team, Task task, void* context) {
  if (getpid() != owner_) {
    throw std::runtime_error(
        "the process was forked after the model was loaded, and threads do not survive fork(); load the model in the child");
  }
  task_ = task;
  context_ = context;
  team_ = team;
  if (team > 1) {
    epoch_.store(next_epoch(epoch_.load(std::memory_order_relaxed), team), std::memory_order_release);
    epoch_.notify_all();
  }
  task(context, 0);
  barrier();
}

void ThreadPool::work(int thread) {
  for (int epoch = 0;;) {
    wait_while(epoch_, epoch);
    epoch = epoch_.load(std::memory_order_acquire);
    const int team = team_of(epoch);
    if (team == 0) return;
    if (thread >= team) continue;  // not in this region
    task_(context_, thread);
    barrier();
  }
}

}  // namespace gptbigcode
