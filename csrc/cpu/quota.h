// How much CPU time the control groups of this process allow.
#pragma once

#include <string>

namespace gptbigcode {

// How many CPUs' worth of time the process may use: the smallest limit of its own group and those above it; infinity if there is
// none. Reads versions 1 and 2 of control groups, which may exist side by side. root: is put before every path, for tests.
double cpu_quota(const std::string& root = "");

}  // namespace gptbigcode
