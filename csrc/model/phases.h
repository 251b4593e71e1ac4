// How the network is written down as a list of phases, and walked. A list is a function that calls a visitor once per phase, with
// the phase's name and a function that makes its work:
//
//   visit("ln_2", [&] { return work; });
//
// work.items() is the number of items, and work(item, thread) does one. The visitors below ask for the work of one phase only, so
// walking a list costs a comparison per phase.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "model/attention.h"
#include "model/linear.h"

namespace gptbigcode {

// ---------------------------------------------------------------- visitors

struct PhaseCount {
  int count = 0;
  template <class MakeWork>
  void operator()(const char* /*name*/, const MakeWork& /*make_work*/) {
    ++count;
  }
};

struct PhaseNames {
  std::vector<std::string> names;
  template <class MakeWork>
  void operator()(const char* name, const MakeWork& /*make_work*/) {
    names.emplace_back(name);
  }
};

struct CountItems {
  int phase = 0;  // the index in the list
  int64_t items = 0;
  int at = 0;
  template <class MakeWork>
  void operator()(const char* /*name*/, const MakeWork& make_work) {
    if (at++ == phase) items = make_work().items();
  }
};

struct DoItem {
  int phase = 0;  // the index in the list
  int64_t item = 0;
  int thread = 0;
  int at = 0;
  template <class MakeWork>
  void operator()(const char* /*name*/, const MakeWork& make_work) {
    if (at++ == phase) make_work()(item, thread);
  }
};

// ---------------------------------------------------------------- kinds of work

// function(row) for the rows 0..rows-1, some of them per item.
template <class Function>
class RowWork {
 public:
  RowWork(int64_t rows, int team, Function function) : rows_(rows), function_(function) {
    constexpr int64_t kAloneRows = 4;  // so few rows are normalised and quantised by one thread faster than by a team
    rows_of_item_ = rows <= kAloneRows ? rows : std::max<int64_t>(1, rows / (8 * team));
  }
  int64_t items() const { return rows_ == 0 ? 0 : (rows_ + rows_of_item_ - 1) / rows_of_item_; }
  void operator()(int64_t item, int /*thread*/) const {
    const int64_t begin = item * rows_of_item_, end = std::min(rows_, begin + rows_of_item_);
    for (int64_t row = begin; row < end; ++row) function_(row);
  }

 private:
  int64_t rows_, rows_of_item_;
  Function function_;
};

// A linear layer; an item is some of its outputs, for all rows.
struct LinearWork {
  const Kernels& kernels;
  const Linear& layer;
  LinearCall call;
  int team = 1;
  float* scratch = nullptr;  // of all threads
  int64_t scratch_per_thread = 0;

  int64_t items() const { return call.m == 0 ? 0 : linear_items(layer, call, team); }
  void operator()(int64_t item, int thread) const {
    run_linear(kernels, layer, call, team, item, scratch + thread * scratch_per_thread);
  }
};

// Two of a kind in one phase.
template <class Work>
struct Both {
  Work first, second;

  int64_t items() const { return first.items() + second.items(); }
  void operator()(int64_t item, int thread) const {
    const int64_t before = first.items();
    if (item < before) return first(item, thread);
    second(item - before, thread);
  }
};

struct AttentionWork {
  const Attention& attention;
  int64_t layer;
  const float* qkv;

  int64_t items() const { return attention.items(); }
  void operator()(int64_t item, int thread) const { attention.attend(layer, qkv, item, thread); }
};

}  // namespace gptbigcode
