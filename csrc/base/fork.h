// Lets an object find out whether the process was forked since the object was made.
#pragma once

#include <cstdint>

namespace gptbigcode {

// The number of forks since the first call, along the line of processes that leads to this one. A process id would not do: a child
// in a process namespace of its own may have the same.
uint64_t fork_count();

}  // namespace gptbigcode
