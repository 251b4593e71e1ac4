#include "sampling/suffix_index.h"

#include <algorithm>

#include "base/error.h"

namespace gptbigcode {
namespace {

auto position(std::vector<std::pair<int32_t, int64_t>>& next, int32_t token) {
  return std::lower_bound(next.begin(), next.end(), token, [](const auto& entry, int32_t wanted) { return entry.first < wanted; });
}

}  // namespace

SuffixIndex::SuffixIndex() { states_.push_back({.length = 0, .link = -1, .end = 0, .next = {}}); }

int64_t* SuffixIndex::find(int64_t state, int32_t token) {
  auto& next = states_[static_cast<size_t>(state)].next;
  const auto place = position(next, token);
  return place != next.end() && place->first == token ? &place->second : nullptr;
}

void SuffixIndex::set(int64_t state, int32_t token, int64_t to) {
  auto& next = states_[static_cast<size_t>(state)].next;
  next.insert(position(next, token), {token, to});
}

void SuffixIndex::extend(const int32_t* tokens, int64_t count) {
  for (int64_t i = 0; i < count; ++i) append(tokens[i]);
}

// Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985).
void SuffixIndex::append(int32_t token) {
  const auto state = [&](int64_t index) -> State& { return states_[static_cast<size_t>(index)]; };
  const auto added = static_cast<int64_t>(states_.size());
  if (matched_ > 0) state(std::exchange(matched_, 0)).end = size_;  // an earlier occurrence from now on
  ++size_;
  states_.push_back({.length = size_, .link = 0, .end = size_, .next = {}});
  int64_t from = last_;
  last_ = added;
  while (from >= 0 && find(from, token) == nullptr) {
    set(from, token, added);
    from = state(from).link;
  }
  if (from < 0) return;
  const int64_t to = *find(from, token);
  if (state(from).length + 1 == state(to).length) {
    state(added).link = to;
    return;
  }
  // The shorter strings of `to` now also end in a place where its longer ones do not end, so they get a state of their own.
  const auto split = static_cast<int64_t>(states_.size());
  State copy = state(to);
  copy.length = state(from).length + 1;
  states_.push_back(std::move(copy));
  state(to).link = split;
  state(added).link = split;
  for (; from >= 0; from = state(from).link) {
    int64_t* next = find(from, token);
    if (next == nullptr || *next != to) break;
    *next = split;
  }
}

SuffixMatch SuffixIndex::match(int64_t max_length) {
  require(max_length >= 1, "max_length must be >= 1");
  int64_t found = states_[static_cast<size_t>(last_)].link;
  if (found <= 0) return {};
  const auto state = [&](int64_t index) -> State& { return states_[static_cast<size_t>(index)]; };
  while (state(state(found).link).length >= max_length) found = state(found).link;
  matched_ = found;
  return {.length = std::min(state(found).length, max_length), .end = state(found).end};
}

}  // namespace gptbigcode
