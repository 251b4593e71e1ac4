// Hands out the items of one phase after another to whichever thread asks.
//
// Taking an item is one atomic addition, whose result says which item of which phase was taken. So a thread may come late, even
// from an earlier phase: it takes an item of the phase that is open now, or learns that none is left.
#pragma once

#include <atomic>
#include <cstdint>

namespace gptbigcode {

class WorkQueue {
 public:
  static constexpr int64_t kMaxItems = int64_t{1} << 19;  // of a phase

  struct Item {
    int64_t index, count;  // of the phase: 0 <= index < count, unless there was no item left
    explicit operator bool() const { return index < count; }
  };

  // Opens the next phase. Called by one thread at a time, after the last item of the phase before was finished. What this thread
  // wrote before is visible to whoever takes an item.
  void open(int64_t count) {
    done_.store(0, std::memory_order_relaxed);
    const uint64_t phase = (state_.load(std::memory_order_relaxed) >> kPhaseShift) + 1;
    state_ = phase << kPhaseShift | static_cast<uint64_t>(count) << kCountShift;
  }

  // Whether an item is left at this moment.
  bool has_items() const { return static_cast<bool>(unpack(state_.load())); }

  // An item that no other thread gets. Asked too often, it does no harm: the bits of the next item have room for more threads
  // than there are.
  Item take() { return unpack(state_.fetch_add(1)); }

  // Says that an item is done. True for the last one of the phase: what was written for the others is then visible to this thread.
  bool finish(const Item& item) { return done_.fetch_add(1) + 1 == item.count; }

 private:
  // The bits of the state: the next item in 0..19, the number of items in 20..39, and above them a number of the phase.
  static constexpr int kCountShift = 20, kPhaseShift = 40;
  static constexpr uint64_t kFieldMask = (uint64_t{1} << kCountShift) - 1;

  static Item unpack(uint64_t state) {
    return {static_cast<int64_t>(state & kFieldMask), static_cast<int64_t>(state >> kCountShift & kFieldMask)};
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> done_{0};
};

}  // namespace gptbigcode
