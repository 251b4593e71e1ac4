#include "model/team.h"

#include <algorithm>

namespace gptbigcode {

void TeamSize::report(int64_t work, double seconds, int64_t switches) {
  if (most_ == 1) return;
  ++calls_;
  work_ += work;
  seconds_ += seconds;
  switches_ += switches;
  if (seconds_ >= (calls_ >= kTrialCalls ? kTrialSeconds : kLongTrial)) end_trial();
}

double& TeamSize::speed_with(int threads) {
  const int index = threads - best_ + 1;
  return speeds_[static_cast<size_t>(index)];
}

void TeamSize::try_with(int threads) {
  current_ = threads;
  calls_ = 0;
  seconds_ = 0;
  work_ = switches_ = 0;
}

void TeamSize::end_trial() {
  const double speed = static_cast<double>(work_) / seconds_;
  const bool busy = static_cast<double>(switches_) >= kBusyRate * current_ * seconds_;
  speed_with(current_) = speed;
  if (current_ == best_ && !busy) {  // nobody else wants the CPUs
    best_ = most_;
    kept_ = 0;
    speeds_ = {};
    return try_with(best_);
  }
  if (current_ == best_ && kept_ > 0) {
    --kept_;
    return try_with(best_);
  }
  for (const int threads : {best_ - 1, best_ + 1}) {
    if (threads >= 1 && threads <= most_ && speed_with(threads) == 0) return try_with(threads);
  }
  best_ += static_cast<int>(std::max_element(speeds_.begin(), speeds_.end()) - speeds_.begin()) - 1;
  kept_ = kKeep;
  speeds_ = {};
  try_with(best_);
}

}  // namespace gptbigcode
