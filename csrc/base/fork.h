// Whether this process is still the one that made something.
#pragma once

#include <cstdint>

namespace gptbigcode {

// How often this process and those that it comes from were forked since the first call. A process id would not do: it may be the
// same in a child that has a process namespace of its own.
uint64_t fork_count();

}  // namespace gptbigcode
