// Attention as kernels.h describes it, for every type of KV cache. Included by each instruction set's file after
// kernels/generic/vector_kernels.h and what attention_float.h and attention_int8.h ask for.

// 2^x for x <= 0, exactly 1 at 0, relative error below 3e-6. Below -80 it stays at 2^-80: every softmax has a 1 in its sum, which
// no longer notices. x = n + r, |r| <= 1/2, and the polynomial is the best of its degree for 2^r with a constant of 1. Attention
// works in powers of two, not of e: scores are multiplied with log2(e) once, with their scale.
inline f32x16 exp2_of_negative(f32x16 x) {
  const f32x16 clamped = max(set1(-80.0f), x);
  const f32x16 t = add(clamped, set1(kPow2Magic));
  const f32x16 r = sub(clamped, sub(t, set1(kPow2Magic)));
  f32x16 p = set1(2 * 9.5828529447e-3f);  // twice the polynomial, since half_pow2 is half the power
  p = fma(p, r, set1(2 * 5.5906426162e-2f));
  p = fma(p, r, set1(2 * 2.4024099112e-1f));
  p = fma(p, r, set1(2 * 6.9312417507e-1f));
  p = fma(p, r, set1(2.0f));
  return mul(p, half_pow2(t));
}
constexpr float kLog2E = 1.44269504088896341f;
inline float score_scale(const AttentionTask& task) { return task.scale * kLog2E; }

inline f32x16 lane_numbers() {
  alignas(64) static constexpr float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kLanes);
}

// Elements begin..begin+15 of a head, less the bias if there is one; zeros after its end.
inline f32x16 load_head(const float* x, const float* bias, int64_t begin, int64_t head_dim) {
  const int64_t count = head_dim - begin;
  const f32x16 v = count >= 16 ? load(x + begin) : load_first(x + begin, count);
  if (bias == nullptr) return v;
  return sub(v, count >= 16 ? load(bias + begin) : load_first(bias + begin, count));
}

// A row's state in a chunk.
struct RowStates {
  float* values;  // [rows][width]
  float* sums;    // [rows][16]
  float* maxima;  // [rows]
  int64_t width;
  float* values_of(int64_t row) const { return values + row * width; }
};

// What a group of rows sees of a KV block.
struct View {
  const std::byte* part;
  int tiles;             // of 16 tokens
  const float* visible;  // tokens per row, if a row sees only some
  int64_t ahead;         // bytes from here to the next block, to be asked for while this one is worked on; or 0

  // The first tokens, all of which row r sees.
  template <bool kMasked>
  int seen_by(int r) const {
    return kMasked && visible[r] < kKvBlock ? static_cast<int>(visible[r]) : kKvBlock;
  }
  // x where row r sees the token of its lane of a tile, else `unseen`
  template <bool kMasked>
  f32x16 seen(int r, int tile, f32x16 x, float unseen) const {
    return kMasked ? select_less(lane_numbers(), set1(visible[r] - static_cast<float>(tile * 16)), x, set1(unseen)) : x;
  }
};

// Softmax of some rows from `row` on over their scores[64], unnormalised: keep(r, tile, p) gets p = 2^(s - maximum), sixteen
// tokens at a time. Updates maxima and sums; rescale[r] brings what was summed before to the new maximum.
template <int kRows, bool kMasked, class Keep>
inline void online_softmax(const float (*scores)[kKvBlock], const View& view, const RowStates& state, int64_t row, float* rescale,
                           Keep keep) {
  const int tiles = kMasked ? view.tiles : kKvBlock / 16;
  const auto seen = [&](int r, int tile, f32x16 x, float unseen) { return view.seen<kMasked>(r, tile, x, unseen); };
  const float lowest = -__builtin_inff();
  static_assert(kRows <= 16);
  alignas(64) float maxima[16], factors[16] = {};
  f32x16 largest[kRows];
  for (int r = 0; r < kRows; ++r) {  // row by row in three loops: the latencies of one row hide behind the others
    largest[r] = seen(r, 0, load(scores[r]), lowest);
    for (int tile = 1; tile < tiles; ++tile) largest[r] = max(largest[r], seen(r, tile, load(scores[r] + tile * 16), lowest));
  }
  reduce_max_of_rows<kRows>(largest, maxima);
  for (int r = 0; r < kRows; ++r) {
    const float old = state.maxima[row + r];
    maxima[r] = old > maxima[r] ? old : maxima[r];
    factors[r] = old - maxima[r];
    state.maxima[row + r] = maxima[r];
  }
  store(factors, exp2_of_negative(load(factors)));
  for (int r = 0; r < kRows; ++r) rescale[r] = factors[r];
  for (int r = 0; r < kRows; ++r) {
    f32x16 sum = mul(load(state.sums + (row + r) * 16), set1(rescale[r]));
    for (int tile = 0; tile < tiles; ++tile) {
      const f32x16 p = seen(r, tile, exp2_of_negative(sub(load(scores[r] + tile * 16), set1(maxima[r]))), 0.0f);
      sum = add(sum, p);
      keep(r, tile, p);
    }
    store(state.sums + (row + r) * 16, sum);
  }
}

// total = total and one more chunk
inline void merge_partial(float* total, const float* values, float maximum, float sum, int64_t width) {
  const float new_maximum = total[width] > maximum ? total[width] : maximum;
  const f32x16 old_factor = exp2_of_negative(set1(total[width] - new_maximum)),
               factor = exp2_of_negative(set1(maximum - new_maximum));
  for (int64_t d = 0; d < width; d += 16) store(total + d, fma(load(values + d), factor, mul(load(total + d), old_factor)));
  alignas(64) float sums[16];
  store(sums, fma(set1(sum), factor, mul(set1(total[width + 1]), old_factor)));
  total[width] = new_maximum;
  total[width + 1] = sums[0];
}

void merge_attention(float* partials, int64_t count, int64_t head_dim, const float* bias, float* out) {
  const int64_t width = padded_head_dim(head_dim);
  for (int64_t i = 1; i < count; ++i) {
    const float* next = partials + i * partial_size(head_dim);
    merge_partial(partials, next, next[width], next[width + 1], width);
  }
  const f32x16 inverse = set1(1.0f / partials[width + 1]);
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t lanes = head_dim - d < 16 ? head_dim - d : 16;
    const f32x16 addend = bias == nullptr ? set1(0.0f) : load_first(bias + d, lanes);
    store_first(out + d, fma(load(partials + d), inverse, addend), lanes);
  }
}

void softmax(float* x, int64_t n) {
  const auto count = [&](int64_t i) { return n - i < 16 ? n - i : 16; };
  // Beyond the end a vector repeats the first element, which changes no maximum.
  f32x16 largest = set1(x[0]);
  for (int64_t i = 0; i < n; i += 16) {
    const f32x16 lanes = set1(static_cast<float>(count(i)));
    largest = max(largest, select_less(lane_numbers(), lanes, load_first(x + i, count(i)), set1(x[0])));
  }
  const f32x16 maximum = set1(reduce_max(largest));
  f32x16 sum = set1(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const f32x16 p = exp2_of_negative(mul(sub(load_first(x + i, count(i)), maximum), set1(kLog2E)));
    sum = add(sum, select_less(lane_numbers(), set1(static_cast<float>(count(i))), p, set1(0.0f)));
    store_first(x + i, p, count(i));
  }
  const f32x16 inverse = set1(1.0f / reduce_add(sum));
  for (int64_t i = 0; i < n; i += 16) store_first(x + i, mul(load_first(x + i, count(i)), inverse), count(i));
}

// run<n>(row) for all rows from `row` on, n at a time, n = kMax as long as there are so many; kMax is a power of two.
template <int kCount, class Run>
inline void at_most_once(int64_t row, int64_t rows, Run run) {
  if (row + kCount <= rows) {
    run.template operator()<kCount>(row);
    row += kCount;
  }
  if constexpr (kCount > 1) at_most_once<kCount / 2>(row, rows, run);
}
template <int kMax, class Run>
inline void in_groups(int64_t row, int64_t rows, Run run) {
  static_assert((kMax & (kMax - 1)) == 0);
  for (; row + kMax <= rows; row += kMax) run.template operator()<kMax>(row);
  if constexpr (kMax > 1) at_most_once<kMax / 2>(row, rows, run);
}

// Kv: the queries as this type of cache wants them, and
//   rows_of_block<rows, masked>(view, state, row): one KV block for `rows` rows from `row` on
template <class Kv>
void attention(const AttentionTask& task) {
  const int64_t rows = task.tokens * task.heads, width = padded_head_dim(task.head_dim);
  auto* floats = reinterpret_cast<float*>(task.scratch);
  const RowStates state{floats, floats + rows * width, floats + rows * (width + 16), width};
  const Kv kv(task, floats + rows * (width + 16) + (rows + 15) / 16 * 16);
  const auto first_row_at = [&](int64_t position) {
    return position > task.position ? (position - task.position) * task.heads : 0;
  };

  for (int64_t chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
    const int64_t begin = chunk * kKvChunk, seen = task.position + task.tokens;
    const int64_t end = begin + kKvChunk < seen ? begin + kKvChunk : seen;
    const int64_t first_row = first_row_at(begin);
    for (int64_t row = first_row; row < rows; ++row) {
      for (int64_t d = 0; d < width; d += 16) store(state.values_of(row) + d, set1(0.0f));
      store(state.sums + row * 16, set1(0.0f));
      state.maxima[row] = -__FLT_MAX__;  // not -infinity, which less itself is NaN, where a score is -infinity
    }
    for (int64_t position = begin; position < end; position += kKvBlock) {
      const std::byte* part = task.blocks[position / kKvBlock] + task.part;
      int64_t ahead = 0;  // for the first rows only
      if (position + kKvBlock < end) {
        const std::byte* next = task.blocks[position / kKvBlock + 1] + task.part;
        ahead = static_cast<int64_t>(reinterpret_cast<uintptr_t>(next) - reinterpret_cast<uintptr_t>(part));
      }
      in_groups<Kv::kRowsAtOnce>(first_row_at(position), rows, [&]<int kRows>(int64_t row) {
        const int64_t fewest = task.position + row / task.heads + 1 - position;  // tokens of the block that the first row sees
        if (fewest >= kKvBlock) {
          kv.template rows_of_block<kRows, false>(View{part, kKvBlock / 16, nullptr, ahead}, state, row);
        } else {
          float visible[kRows];
          for (int r = 0; r < kRows; ++r) {
            const int64_t token = (row + r) / task.heads;
            visible[r] = static_cast<float>(task.position + token + 1 - position);
          }
          const int64_t most = task.position + (row + kRows - 1) / task.heads + 1 - position;
          const int tiles = most < kKvBlock ? static_cast<int>((most + 15) / 16) : kKvBlock / 16;
          kv.template rows_of_block<kRows, true>(View{part, tiles, visible, ahead}, state, row);
        }
        ahead = 0;
      });
    }
    for (int64_t row = first_row; row < rows; ++row) {
      const float* values = state.values_of(row);
      const float sum = reduce_add(load(state.sums + row * 16));
      float* out = task.partials + row / task.heads * task.token_stride + row % task.heads * task.head_stride;
      if (chunk == task.chunk_begin) {
        for (int64_t d = 0; d < width; d += 16) store(out + d, load(values + d));
        out[width] = state.maxima[row];
        out[width + 1] = sum;
      } else {
        merge_partial(out, values, state.maxima[row], sum, width);
      }
    }
  }
}

#include "kernels/generic/attention_float.h"
#include "kernels/generic/attention_int8.h"
