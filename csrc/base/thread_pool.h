// Threads for parallel regions with barriers. They spin for some microseconds (a decode step has a barrier every few tens of
// microseconds), then park on a futex, so that an idle engine uses no CPU.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace gptbigcode {

class ThreadPool {
 public:
  // num_threads counts the caller of run(). Threads beyond the available CPUs never spin: they would only delay the others.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls region(thread) on `team` threads, 0 being the caller, and returns when all are done. One caller at a time.
  // The region must not throw.
  template <class Region>
  void run(int team, Region&& region) {
    start(team, [](void* context, int thread) { (*static_cast<std::remove_reference_t<Region>*>(context))(thread); }, &region);
  }
  template <class Region>
  void run(Region&& region) {
    run(size_, region);
  }

  // Inside a region, called by every thread of the team: nobody passes before all have arrived; what was written before is
  // visible after. The last to arrive first calls `alone`, while the others wait: cheaper than a second barrier for short work.
  template <class Alone>
  void barrier(Alone&& alone) {
    const int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < team_) {
      wait_while(phase_, phase);
      return;
    }
    alone();
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  }
  void barrier() {
    barrier([] {});
  }

 private:
  using Task = void (*)(void*, int);
  void start(int team, Task task, void* context);
  void stop();
  void work(int thread);
  void wait_while(const std::atomic<int>& value, int old) const;

  const int size_;
  const int spins_;
  const pid_t owner_;  // threads do not survive fork()
  // Written between regions only: threads outside the team look at nothing but epoch_.
  Task task_ = nullptr;
  void* context_ = nullptr;
  int team_ = 0;
  alignas(64) std::atomic<int> epoch_{0};  // regions started * 2048 + size of the team; team 0: stop
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
  std::vector<std::thread> threads_;
};

}  // namespace gptbigcode
