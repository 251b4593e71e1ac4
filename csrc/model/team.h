// How many of its threads a model uses while other processes want the same CPUs. Beside them a thread is put aside again and
// again, and now and then with an item in its hands, which all others then wait for. Whether one more thread still pays depends on
// the machine, the model and what else runs; so it is tried out. Results do not depend on it.
#pragma once

#include <array>
#include <cstdint>

namespace gptbigcode {

class TeamSize {
 public:
  explicit TeamSize(int most) : most_(most), best_(most), current_(most) {}

  // For the next call.
  int threads() const { return current_; }

  // After a call: how much work it was, in any unit, how long it took, and how often threads of the process lost a CPU to others
  // meanwhile.
  // A few calls make a trial. While threads lose their CPUs, trials with one thread more or fewer take turns with the best number
  // so far, then the best is kept for a while; when they no longer do, all threads are used.
  void report(int64_t work, double seconds, int64_t switches);

 private:
  void end_trial();
  void try_with(int threads);
  double& speed_with(int threads);

  static constexpr double kTrialSeconds = 0.03;  // several time slices of the operating system
  static constexpr int kTrialCalls = 4;          // calls that a trial takes at least, unless they are long:
  static constexpr double kLongTrial = 0.3;      // seconds after which a trial ends with the call
  static constexpr int kKeep = 32;               // trials' time between two comparisons
  // Lost CPUs per second and thread that tell of other work: the kernel's own threads take each some 20 times a second, and a busy
  // process takes one 100 to 200 times.
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
