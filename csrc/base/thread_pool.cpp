#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/fork.h"
#include "base/plain_floats.h"

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

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr int64_t kSpinNs = 50'000;  // as long as some phases of a decode step
constexpr int kRelaxes = 16;         // between looks at the clock: about a microsecond

}  // namespace

ThreadPool::ThreadPool(int num_threads, int cpus)
    : size_(num_threads),
      spin_ns_(num_threads <= cpus ? kSpinNs : 0),
      forks_(fork_count()),
      beds_(std::make_unique<Bed[]>(static_cast<size_t>(num_threads))) {
  threads_.reserve(static_cast<size_t>(size_ - 1));
  try {
    for (int t = 1; t < size_; ++t) threads_.emplace_back([this, t] { live(t); });
  } catch (const std::system_error& error) {
    stop();
    throw ThreadLimitError(
        "only " + std::to_string(threads_.size() + 1) + " of " + std::to_string(size_) + " threads could be started (" +
        error.code().message() +
        "): ask for fewer with num_threads, or raise the limit of processes (ulimit -u, a container's pids limit)"
        " or of memory");
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (fork_count() == forks_) {
    stop();
    return;
  }
  // After fork() there is nobody to join. Even to detach a thread would touch memory that may be gone with it, so the objects are
  // moved to where nothing destroys them.
  alignas(std::vector<std::thread>) std::byte never_destroyed[sizeof(std::vector<std::thread>)];
  ::new (static_cast<void*>(never_destroyed)) std::vector<std::thread>(std::move(threads_));
}

void ThreadPool::check_owner() const {
  if (fork_count() == forks_) return;
  throw ForkError(
      "the process was forked after the model was loaded, and its threads do not survive fork(): load the model in each child "
      "(gunicorn without --preload), or start processes with multiprocessing's \"spawn\" or \"forkserver\"");
}

void ThreadPool::stop() {
  stopping_ = true;
  for (size_t t = 1; t <= threads_.size(); ++t) wake(static_cast<int>(t));
  for (auto& thread : threads_) thread.join();
}

// Waiting and waking. A thread that goes to sleep first says so, and then looks once more for a reason not to. A thread that makes
// such a reason looks for sleepers after that. All of it is sequentially consistent, so one of the two sees the other.
template <class Ready>
void ThreadPool::wait_until(int thread, Ready ready) {
  for (const int64_t begin = now_ns(); now_ns() - begin < spin_ns_;) {
    for (int i = 0; i < kRelaxes; ++i) {
      if (ready()) return;
      relax();
    }
  }
  std::atomic<uint32_t>& asleep = beds_[static_cast<size_t>(thread)].asleep;
  while (!ready()) {
    asleep = 1;
    ++sleepers_;
    if (!ready()) asleep.wait(1);
    --sleepers_;
    asleep = 0;
  }
}

void ThreadPool::wake(int thread) {
  std::atomic<uint32_t>& asleep = beds_[static_cast<size_t>(thread)].asleep;
  if (asleep.exchange(0) == 1) asleep.notify_one();
}

void ThreadPool::start(int team, const Job& job) {
  check_owner();
  const PlainFloats plain;
  job_ = job;
  phase_ = -1;
  team_ = team;
  finished_ = false;
  next_phase(0);
  while (!finished_) {
    if (!do_item(0)) wait_until(0, [this] { return finished_.load() || queue_.has_items(); });
  }
}

// Called by the thread that did the last item of a phase, and once to start. This thread does phases of one item itself: to hand
// one to another thread takes longer than most of them.
void ThreadPool::next_phase(int thread) {
  int64_t count = 0;
  for (++phase_; phase_ < job_.phases; ++phase_) {
    count = job_.count(job_.context, phase_);
    if (count > 1) break;
    if (count == 1) job_.work(job_.context, phase_, 0, thread);
  }
  if (phase_ >= job_.phases) {
    finished_ = true;
    if (sleepers_ > 0) wake(0);
    return;
  }
  queue_.open(count);
  if (sleepers_ > 0) {
    const int team = static_cast<int>(std::min<int64_t>(team_, count));
    for (int t = 0; t < team; ++t) wake(t);
  }
}

bool ThreadPool::do_item(int thread) {
  if (!queue_.has_items()) return false;
  const WorkQueue::Item item = queue_.take();
  if (!item) return false;
  job_.work(job_.context, phase_, item.index, thread);
  if (queue_.finish(item)) next_phase(thread);
  return true;
}

void ThreadPool::live(int thread) {
  const PlainFloats plain;
  const auto wanted = [this, thread] { return stopping_.load() || (thread < team_.load() && queue_.has_items()); };
  while (!stopping_) {
    wait_until(thread, wanted);
    while (thread < team_.load(std::memory_order_relaxed) && do_item(thread)) {
    }
  }
}

}  // namespace gptbigcode
