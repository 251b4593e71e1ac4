// A request to end a call early, which any thread can make.
#pragma once

#include <atomic>

namespace gptbigcode {

// Only the flag itself is shared, no data is handed over with it, so relaxed order is enough.
class StopFlag {
 public:
  void set() { set_.store(true, std::memory_order_relaxed); }
  void clear() { set_.store(false, std::memory_order_relaxed); }
  bool is_set() const { return set_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> set_{false};
};

}  // namespace gptbigcode
