// How many threads make sense here.
#pragma once

#include <cstdint>

namespace gptbigcode {

int available_cpus();       // CPUs in the affinity mask, bounded by the quota of the control groups; at least 1
int default_num_threads();  // of those, one per physical performance core

// How often threads of this process lost a CPU that they wanted to keep, since it started.
int64_t involuntary_switches();

}  // namespace gptbigcode
