// A fixed team of threads for parallel regions with barriers. Threads spin for some microseconds (a decode step has a
// barrier every few tens of microseconds), then park on a futex, so that an idle engine uses no CPU.
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

  // Calls region(thread) on every thread, 0 being the caller, and returns when all are done. One caller at a time.
  // The region must not throw.
  template <class Region>
  void run(Region&& region) {
    start([](void* context, int thread) { (*static_cast<std::remove_reference_t<Region>*>(context))(thread); }, &region);
  }

  // Inside a region, called by every thread: nobody passes before all have arrived; what was written before is visible after.
  void barrier();

 private:
  using Task = void (*)(void*, int);
  void start(Task task, void* context);
  void work(int thread);
  void wait_while(const std::atomic<int>& value, int old) const;

  const int size_;
  const int spins_;
  const pid_t owner_;  // threads do not survive fork()
  Task task_ = nullptr;
  void* context_ = nullptr;
  bool stopping_ = false;
  alignas(64) std::atomic<int> epoch_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
  std::vector<std::thread> threads_;
};

}  // namespace gptbigcode
