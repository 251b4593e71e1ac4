// Threads that work through phases. A phase is a number of items. It ends when its items are done, whoever did them, and the thread
// that did the last one starts the next phase. So nobody waits for a thread that holds no item. A thread that is late, because the
// operating system has put it aside for another process, joins whatever phase it finds when it comes.
//
// A thread without an item spins for some microseconds, because a decode step has a phase every few tens of microseconds. Then it
// parks on a futex, so that an idle engine uses no CPU.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/work_queue.h"

namespace gptbigcode {

class ThreadPool {
 public:
  // num_threads: the caller of run() is one of them. cpus: how many of them can run at the same time; if that is fewer, a thread
  // without an item parks at once, since it would keep another one from a CPU. Throws ThreadLimitError.
  ThreadPool(int num_threads, int cpus);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Throws ForkError in a child of the process that made the pool. If there is a lock around run(), ask before taking it: a
  // thread that held it when the process was forked does not exist in the child.
  void check_owner() const;

  // Runs the phases 0..phases-1 one after another on `team` threads and returns when all are done. One caller at a time.
  //   count(phase)               how many items it has, at most WorkQueue::kMaxItems; called once, when the phase before is done
  //   work(phase, item, thread)  does one; thread < size() tells whose scratch memory to use, 0 being the caller
  // What an item of a phase wrote is visible to every item of later phases. Neither function may throw.
  template <class Count, class Work>
  void run(int team, int phases, Count&& count, Work&& work) {
    struct Context {
      std::remove_reference_t<Count>& count;
      std::remove_reference_t<Work>& work;
    } context{count, work};
    start(team,
          {.context = &context,
           .phases = phases,
           .count = [](void* c, int phase) -> int64_t { return static_cast<Context*>(c)->count(phase); },
           .work = [](void* c, int phase, int64_t item, int thread) { static_cast<Context*>(c)->work(phase, item, thread); }});
  }
  // A single phase: work(item, thread) for the items 0..count-1.
  template <class Work>
  void run_items(int64_t count, Work&& work) {
    run(size_, 1, [&](int) { return count; }, [&](int, int64_t item, int thread) { work(item, thread); });
  }

 private:
  struct Job {
    void* context;
    int phases;
    int64_t (*count)(void*, int phase);
    void (*work)(void*, int phase, int64_t item, int thread);
  };
  // Where a thread sleeps; on a cache line of its own.
  struct alignas(64) Bed {
    std::atomic<uint32_t> asleep{0};
  };

  void start(int team, const Job& job);
  void stop();
  void live(int thread);
  bool do_item(int thread);
  void next_phase(int thread);
  template <class Ready>
  void wait_until(int thread, Ready ready);
  void wake(int thread);

  const int size_;
  const int64_t spin_ns_;
  const uint64_t forks_;  // fork_count() of the process that made it

  // Written before an item is handed out, and not again until it is done. Only a thread that holds an item reads them.
  Job job_{};
  int phase_ = 0;

  WorkQueue queue_;
  alignas(64) std::atomic<bool> finished_{true};
  std::atomic<int> team_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::unique_ptr<Bed[]> beds_;
  std::vector<std::thread> threads_;
};

}  // namespace gptbigcode
