// Where the time of a step goes: for each kind of phase how long it took, and how long each thread was at work in it. The
// difference is what threads waited: for the last items, for each other, for the operating system.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace gptbigcode {

struct PhaseTime {
  std::string name;
  double seconds = 0;        // from its first item to its last
  std::vector<double> busy;  // seconds of each thread in its items
};

class Profile {
 public:
  explicit Profile(int threads) : busy_(static_cast<size_t>(threads)) {}

  // Called by one thread at a time: a step begins, whose phases are of these kinds; a phase of a kind begins; the step ends.
  void begin(std::vector<std::string> kinds) {
    names_ = std::move(kinds);
    seconds_.resize(names_.size());
    for (PerThread& thread : busy_) thread.seconds.resize(names_.size());
    kind_ = -1;
  }
  void enter(int kind) {
    const Clock::time_point now = Clock::now();
    if (kind_ >= 0) seconds_[static_cast<size_t>(kind_)] += std::chrono::duration<double>(now - entered_).count();
    kind_ = kind;
    entered_ = now;
  }
  void end() { enter(-1); }

  std::vector<PhaseTime> times() const {
    std::vector<PhaseTime> all;
    for (size_t kind = 0; kind < names_.size(); ++kind) {
      all.push_back({names_[kind], seconds_[kind], {}});
      for (const PerThread& thread : busy_) all.back().busy.push_back(thread.seconds[kind]);
    }
    return all;
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct alignas(64) PerThread {
    std::vector<double> seconds;  // per kind
  };

 public:
  // An item's time, from construction to destruction; a null profile measures nothing.
  class Timer {
   public:
    Timer(Profile* profile, int kind, int thread) : profile_(profile), kind_(kind), thread_(thread) {
      if (profile_ != nullptr) begin_ = Clock::now();
    }
    ~Timer() {
      if (profile_ == nullptr) return;
      profile_->busy_[static_cast<size_t>(thread_)].seconds[static_cast<size_t>(kind_)] +=
          std::chrono::duration<double>(Clock::now() - begin_).count();
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    Profile* const profile_;
    const int kind_, thread_;
    Clock::time_point begin_;
  };

 private:
  std::vector<std::string> names_;
  std::vector<double> seconds_;  // per kind
  std::vector<PerThread> busy_;
  int kind_ = -1;
  Clock::time_point entered_;
};

}  // namespace gptbigcode
