// Reads memory as fast as it goes, to measure what a decode step is compared with.
#pragma once

#include "kernels/generic/lanes.h"

namespace gptbigcode {
namespace {

// Several parts are read side by side: the hardware prefetcher follows one stream per page, and one stream alone keeps too few
// loads under way.
template <Lanes V, int kStreams>
inline float read_streams(const float* data, int64_t count) {
  constexpr int64_t kStep = 64, kAhead = 256;  // floats; four lines of 64 bytes at a time, prefetched 1 KiB before
  const int64_t part = count / kStreams / kStep * kStep;
  V largest[4];
  for (auto& v : largest) v = V::set1(-__builtin_inff());
  for (int64_t i = 0; i < part; i += kStep) {
    for (int s = 0; s < kStreams; ++s) {
      const float* at = data + s * part + i;
      for (int j = 0; j < 4; ++j) {
        __builtin_prefetch(at + kAhead + j * 16, 0, 3);
        largest[j] = max(V::load(at + j * 16), largest[j]);
      }
    }
  }
  float result = reduce_max(max(max(largest[0], largest[1]), max(largest[2], largest[3])));
  for (int64_t i = kStreams * part; i < count; ++i) result = data[i] > result ? data[i] : result;
  return result;
}
template <Lanes V>
float read(const float* data, int64_t count, int streams) {
  switch (streams) {
    case 1: return read_streams<V, 1>(data, count);
    case 2: return read_streams<V, 2>(data, count);
    case 4: return read_streams<V, 4>(data, count);
    default: return read_streams<V, 8>(data, count);
  }
}

}  // namespace
}  // namespace gptbigcode
