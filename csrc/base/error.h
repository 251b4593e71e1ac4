// What the core throws. It never prints and never aborts. bindings/errors.cpp maps each type to a class of gptbigcode_cpu.errors.
#pragma once

#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>

namespace gptbigcode {

inline std::string_view message_part(std::string_view text) { return text; }
inline std::string message_part(std::integral auto number) { return std::to_string(number); }

// Throws std::invalid_argument unless the condition holds. The message is given in parts, texts and integers, which are put
// together only if it is thrown.
template <class... Parts>
void require(bool condition, const Parts&... message) {
  if (condition) return;
  std::string all;
  ((all += message_part(message)), ...);
  throw std::invalid_argument(all);
}

// The process was forked since: threads do not survive fork().
struct ForkError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A call was ended early because its caller asked for it.
struct Stopped : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The operating system starts no more threads.
struct ThreadLimitError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace gptbigcode
