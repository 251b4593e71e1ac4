#include "kernels/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>

namespace gptbigcode {
namespace {

// The longest piece that a thread takes: as one stream it is read in some 20 us.
constexpr size_t kPiece = size_t{1} << 18;

// work(item, thread) for each item
template <class Work>
double seconds_of(ThreadPool& pool, int64_t items, Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  pool.run_items(items, work);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double read_bandwidth(const Kernels& kernels, ThreadPool& pool, const std::vector<Memory>& memory) {
  std::vector<Memory> pieces;
  size_t nbytes = 0;
  for (const Memory& m : memory) {
    for (size_t at = 0; at < m.nbytes; at += kPiece) pieces.push_back({m.data + at, std::min(kPiece, m.nbytes - at)});
    nbytes += m.nbytes;
  }
  double best = std::numeric_limits<double>::infinity();
  std::atomic<float> sink{0};
  for (const int streams : {1, 2, 4, 8}) {
    const double seconds = seconds_of(pool, static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
      const Memory& piece = pieces[static_cast<size_t>(i)];
      const auto count = static_cast<int64_t>(piece.nbytes / sizeof(float));
      sink.store(kernels.read(reinterpret_cast<const float*>(piece.data), count, streams), std::memory_order_relaxed);
    });
    best = std::min(best, seconds);
  }
  return static_cast<double>(nbytes) / best;
}

double int8_peak(const Kernels& kernels, ThreadPool& pool) {
  constexpr int kPasses = 5;
  constexpr int64_t kRounds = 4'000'000;
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::atomic<int64_t> products{0};
    const double seconds = seconds_of(pool, pool.size(), [&](int64_t, int) { products += kernels.int8_peak(kRounds); });
    best = std::max(best, static_cast<double>(products) / seconds);
  }
  return best;
}

}  // namespace gptbigcode
