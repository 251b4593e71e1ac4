// The core reports bad input by exceptions that the bindings turn into ValueError; it never prints and never aborts.
#pragma once

#include <stdexcept>
#include <string>

namespace gptbigcode {

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace gptbigcode
