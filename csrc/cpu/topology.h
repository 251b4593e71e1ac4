// How many threads make sense here.
#pragma once

namespace gptbigcode {

int available_cpus();       // CPUs in the affinity mask, bounded by the cgroup's quota; at least 1
int default_num_threads();  // of those, one per physical performance core

}  // namespace gptbigcode
