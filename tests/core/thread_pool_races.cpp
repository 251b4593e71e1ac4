// The work queue, and many short runs of a pool, with every phase checking that the one before is complete. Built with
// ThreadSanitizer by tests/core/test_threads.py. The data are plain integers, so an item that is done twice, early, or unseen by
// others is a race, too.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "base/work_queue.h"

namespace {

void fail(const char* what) {
  std::puts(what);
  std::exit(1);
}

void run_once(gptbigcode::ThreadPool& pool, std::mt19937& random) {
  const auto below = [&](unsigned limit) { return static_cast<int>(random() % limit); };
  const int phases = 1 + below(12), team = 1 + below(static_cast<unsigned>(pool.size()));
  std::vector<std::vector<int>> done;  // how often each item of each phase was done
  for (int phase = 0; phase < phases; ++phase) {
    const int kind = below(4);  // none, one, which no other thread is told of, or many
    done.emplace_back(static_cast<size_t>(kind == 0 ? 0 : kind == 1 ? 1 : 1 + below(40)), 0);
  }
  const auto check = [](const std::vector<int>& items) {
    for (const int times : items) {
      if (times != 1) fail("an item was not done once before the next phase began");
    }
  };
  int entered = 0;
  pool.run(
      team, phases,
      [&](int phase) {
        if (phase != entered++) fail("a phase began out of turn");
        return static_cast<int64_t>(done[static_cast<size_t>(phase)].size());
      },
      [&](int phase, int64_t item, int thread) {
        if (thread < 0 || thread >= pool.size()) fail("no such thread");
        if (phase > 0) check(done[static_cast<size_t>(phase) - 1]);
        ++done[static_cast<size_t>(phase)][static_cast<size_t>(item)];
      });
  for (const auto& items : done) check(items);
}

// Threads that take items of whatever phase is open. The one that finishes a phase checks it and opens the next.
void run_queue(int threads) {
  constexpr int kPhases = 2000;
  gptbigcode::WorkQueue queue;
  std::atomic<bool> finished{false};
  int phase = 0;
  std::vector<int> done;
  const auto open = [&] {
    done.assign(static_cast<size_t>(1 + phase % 7), 0);
    queue.open(static_cast<int64_t>(done.size()));
  };
  const auto take_items = [&] {
    while (!finished) {
      const gptbigcode::WorkQueue::Item item = queue.take();
      if (!item) {
        std::this_thread::yield();
        continue;
      }
      if (item.count != 1 + phase % 7) fail("an item of another phase");
      ++done[static_cast<size_t>(item.index)];
      if (!queue.finish(item)) continue;
      for (const int times : done) {
        if (times != 1) fail("an item was not handed out once");
      }
      if (queue.has_items()) fail("an item is left of a phase that is finished");
      if (++phase == kPhases) {
        finished = true;
      } else {
        open();
      }
    }
  };
  open();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(take_items);
  take_items();
  for (std::thread& other : others) other.join();
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 5}) run_queue(threads);
  for (const int size : {1, 2, 3, 8}) {
    gptbigcode::ThreadPool pool(size, 2);
    std::mt19937 random(static_cast<unsigned>(size));
    for (int run = 0; run < 3000; ++run) run_once(pool, random);
  }
  std::puts("done");
}
