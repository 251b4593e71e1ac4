// How much CPU time the control groups of this process allow.
#pragma once

#include <string>

namespace gptbigcode {

// CPUs' worth of time, the least that the process's own group or one above it allows; infinity: no limit. Versions 1 and 2 of
// control groups, also side by side. root: comes before every path that is read; for tests.
double cpu_quota(const std::string& root = "");

}  // namespace gptbigcode
