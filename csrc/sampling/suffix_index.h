// Finds the longest end of a token sequence that also occurred earlier in it, with a suffix automaton that grows with the sequence.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace gptbigcode {

struct SuffixMatch {
  int64_t length = 0;  // tokens at the end of the sequence that occurred before; 0: none
  int64_t end = 0;     // where an earlier occurrence ended: the index of the token that followed it
};

class SuffixIndex {
 public:
  SuffixIndex();

  // Appends tokens, each in amortised constant time (for the alphabet that follows one suffix).
  void extend(const int32_t* tokens, int64_t count);

  // The longest match of at most max_length tokens, in the steps from the whole sequence to it. Of several occurrences one of the
  // latest.
  SuffixMatch match(int64_t max_length);

  int64_t size() const { return size_; }

 private:
  // A state stands for the substrings of the lengths (length of link, length] that end at the same places.
  struct State {
    int64_t length;
    int64_t link;  // the state of the longest shorter end that also occurs elsewhere; -1: this is the empty one
    int64_t end;   // an occurrence ends before this token: the latest that is known
    std::vector<std::pair<int32_t, int64_t>> next;  // the state after a further token, ascending by token
  };

  int64_t* find(int64_t state, int32_t token);
  void set(int64_t state, int32_t token, int64_t to);
  void append(int32_t token);

  std::vector<State> states_;
  int64_t last_ = 0;     // the state of the whole sequence
  int64_t matched_ = 0;  // the state that was found, which ends here, too
  int64_t size_ = 0;
};

}  // namespace gptbigcode
