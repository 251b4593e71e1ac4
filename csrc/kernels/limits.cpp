#include "kernels/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/aligned_buffer.h"

namespace gptbigcode {
namespace {

constexpr int kPasses = 5;

template <class Region>
double best_seconds(ThreadPool& pool, Region&& region) {
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run_items(pool.size(), [&](int64_t item, int) { region(item); });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = pass == 0 ? seconds : std::min(best, seconds);
  }
  return best;
}

uint64_t sum(const uint64_t* data, size_t count) {
  constexpr size_t kChains = 16;
  uint64_t sums[kChains] = {};
  for (size_t i = 0; i + kChains <= count; i += kChains) {
    for (size_t j = 0; j < kChains; ++j) sums[j] += data[i + j];
  }
  uint64_t total = 0;
  for (const uint64_t s : sums) total += s;
  return total;
}

}  // namespace

double read_bandwidth(ThreadPool& pool, size_t nbytes) {
  const auto threads = static_cast<size_t>(pool.size());
  const size_t words = nbytes / sizeof(uint64_t) / threads;  // of one thread
  AlignedBuffer<uint64_t> buffer;
  buffer.reserve(words * threads);
  pool.run_items(pool.size(), [&](int64_t part, int) {
    std::memset(buffer.data() + words * static_cast<size_t>(part), 1, words * sizeof(uint64_t));
  });
  std::atomic<uint64_t> sink{0};
  const double seconds =
      best_seconds(pool, [&](int64_t part) { sink += sum(buffer.data() + words * static_cast<size_t>(part), words); });
  return static_cast<double>(words * threads * sizeof(uint64_t)) / seconds;
}

double int8_peak(const Kernels& kernels, ThreadPool& pool) {
  constexpr int64_t kRounds = 4'000'000;
  std::atomic<int64_t> products{0};
  const double seconds = best_seconds(pool, [&](int64_t) { products += kernels.int8_peak(kRounds); });
  return static_cast<double>(products) / kPasses / seconds;
}

}  // namespace gptbigcode
