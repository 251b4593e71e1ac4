// Decides how many of its threads a model uses while other processes want the same CPUs. The operating system then puts a thread
// aside again and again. Sometimes the thread holds an item, and all others wait for it. Whether one more thread still pays depends
// on the machine, the model and the other processes, so it is tried out. Results do not depend on it.
#pragma once

#include <array>
#include <cstdint>

namespace gptbigcode {

class TeamSize {
 public:
  explicit TeamSize(int most) : most_(most), best_(most), current_(most) {}

  // For the next call.
  int threads() const { return current_; }

  // Reports a call: how much work it was, in any unit, how long it took, and how often threads of the process lost a CPU meanwhile.
  //
  // Some calls together are a trial. While threads lose CPUs, the best number of threads so far is tried in turn with one more and
  // one fewer; then the best of them is kept for a while. When no CPUs are lost any more, all threads are used.
  void report(int64_t work, double seconds, int64_t switches);

 private:
  void end_trial();
  void try_with(int threads);
  double& speed_with(int threads);

  static constexpr double kTrialSeconds = 0.03;  // several time slices of the operating system
  static constexpr int kTrialCalls = 4;          // the fewest calls of a trial
  static constexpr double kLongTrial = 0.3;      // seconds after which a trial ends even with fewer calls
  static constexpr int kKeep = 32;               // trials from one comparison to the next
  // From so many lost CPUs per second and thread on, other processes are at work. The kernel's own threads take each CPU some 20
  // times a second, a busy process takes it 100 to 200 times.
  static constexpr double kBusyRate = 40;

  const int most_;
  int best_, current_;
  // The trial so far.
  int calls_ = 0;
  double seconds_ = 0;
  int64_t work_ = 0, switches_ = 0;
  // The comparison: speeds with one thread fewer, as many, and one more; 0: not tried.
  std::array<double, 3> speeds_{};
  int kept_ = 0;
};

}  // namespace gptbigcode
