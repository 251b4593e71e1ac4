// Threads that work through phases. A phase is a number of items; it ends when its items are done, whoever did them, and whoever
// did the last one starts the next phase. So nobody waits for a thread that holds no item: one that is late, or that the
// operating system has put aside for another process, joins whatever phase it finds when it comes.
//
// Threads without an item spin for some microseconds (a decode step has a phase every few tens of microseconds), then park on a
// futex, so that an idle engine uses no CPU.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace gptbigcode {

class ThreadPool {
 public:
  // num_threads counts the caller of run(). Throws ThreadLimitError.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  static constexpr int64_t kMaxItems = int64_t{1} << 19;  // of a phase

  int size() const { return size_; }

  // Throws ForkError in a child of the process that made the pool. Whoever has a lock around run() asks before taking it: a
  // thread that held it when the process was forked does not exist in the child.
  void check_owner() const;

  // Runs the phases 0..phases-1 one after another on `team` threads and returns when all are done. One caller at a time.
  //   count(phase)               how many items it has, at most kMaxItems; asked once, when the phase before is done
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
  bool has_items() const;
  template <class Ready>
  void wait_until(int thread, Ready ready);
  void wake(int thread);

  const int size_;
  const int64_t spin_ns_;
  const uint64_t forks_;  // fork_count() of the process that made it

  // Written before an item is handed out, and not again until it is done: only who holds an item reads them.
  Job job_{};
  int phase_ = 0;

  // The items of the phase: how many there are, in bits 20..39, and the next to be taken, in bits 0..19; above them a number that
  // differs from phase to phase. Taking one is one addition, whose result says what was taken, so a thread that comes late from
  // an earlier phase, or an earlier run, takes an item of this one. What is added when there is none left does no harm.
  alignas(64) std::atomic<uint64_t> items_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<bool> finished_{true};
  std::atomic<int> team_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::unique_ptr<Bed[]> beds_;
  std::vector<std::thread> threads_;
};

}  // namespace gptbigcode
