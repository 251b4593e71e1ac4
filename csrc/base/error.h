// What the core throws; bindings/errors.cpp says which class of gptbigcode_cpu.errors each becomes. It never prints and never
// aborts.
#pragma once

#include <stdexcept>
#include <string>

namespace gptbigcode {

// Bad input is std::invalid_argument.
inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// The process was forked since: threads do not survive fork().
struct ForkError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The operating system starts no more threads.
struct ThreadLimitError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace gptbigcode
