// Attention over keys and values in int8. The queries and the numerators of the softmax are quantised, too. So both products are
// sums of integers, which are exact in any order:
//
//   score  = float(sum of q * k) * (scale of the key * (scale of the query * scale of attention * log2(e)))
//   p      = 2^(score - maximum); numerator = p * scale of the value, as 0..255 with one scale per row and KV block
//   values = fma(float(sum of numerator * v), scale of the numerators, values * rescale), KV block after KV block
#pragma once

#include "kernels/generic/attention.h"

namespace gptbigcode {
namespace {

// The integer products, from an instruction set.
//
// dot_keys and dot_values add to sum[tile][row] the products of four codes of the cache with four of the row, for `count` quads.
// A tile of the cache is [count][16 lanes][4 codes]; tile t begins at tile + t * tile_stride, and row r's quads begin at
// quads + r * stride. Both prefetch what lies `ahead` bytes after the codes.
template <class P>
concept AttentionProducts =
    Lanes<typename P::Floats> && (sizeof(typename P::Quad) <= 8) &&  //
    requires(P::Floats v, P::Integers i, P::Integers* sum, const int8_t* codes, P::Quad* quads, const std::byte* tile, int64_t n) {
      { P::quad_of(codes) } -> std::same_as<typename P::Quad>;  // four codes of a query, as the products want them
      P::store_quads(quads, v);                                 // of sixteen numerators 0..255, given as kMagic + n
      { P::set1_i32(1) } -> std::same_as<typename P::Integers>;
      { P::to_float(i) } -> std::same_as<typename P::Floats>;
      P::template dot_keys<1, 1>(tile, n, quads, n, n, n, sum);    // (tile, tile_stride, quads, stride, count, ahead, sum)
      P::template dot_values<1, 1>(tile, n, quads, n, n, n, sum);  // codes of keys are 0..255, of values -127..127
      requires P::kRowsAtOnce >= 1 && P::kRowsAtOnce <= 16;        // a power of two
      requires P::kDotRows >= 1 && P::kDotTiles >= 1;              // of dot_keys and dot_values at most
    };

constexpr int64_t kValueTile = kKvBlock * 16;  // bytes
constexpr float kLeastMaximum = 1e-30f;        // below it a row is zero: its inverse would overflow

// Calls put(begin, codes) with codes -127..127 of sixteen elements at a time. Returns the scale.
template <Lanes V, class Put>
inline float quantize_head(const float* x, const float* bias, int64_t head_dim, Put put) {
  V largest = V::set1(0.0f);
  for (int64_t i = 0; i < head_dim; i += 16) {
    const V v = load_head<V>(x, bias, i, head_dim);
    largest = max_or_nan(largest, magnitude(v));
  }
  const float maximum = reduce_max_or_nan(largest);
  const V inverse = V::set1(maximum > kLeastMaximum ? 127.0f / maximum : 0.0f);
  for (int64_t i = 0; i < head_dim; i += 16) {
    alignas(64) float lanes[16];
    store(lanes, fma(load_head<V>(x, bias, i, head_dim), inverse, V::set1(kMagic)));
    int32_t bits[16];  // the low byte is the code
    __builtin_memcpy(bits, lanes, sizeof(bits));
    int8_t codes[16];
    for (int j = 0; j < 16; ++j) codes[j] = static_cast<int8_t>(bits[j] << 24 >> 24);
    put(i, codes);
  }
  return maximum <= kLeastMaximum ? 0.0f : maximum / 127.0f;  // NaN and infinity stay, and make NaN of every product
}

template <Lanes V>
bool write_kv_int8(const KvWrite& kv) {
  const KvPart part = kv_part(KvDType::kInt8, kv.head_dim);
  const int64_t quads = (kv.head_dim + 3) / 4;
  auto* key = reinterpret_cast<uint8_t*>(kv.part) + kv.slot / 16 * quads * 64 + kv.slot % 16 * 4;
  auto* value = reinterpret_cast<int8_t*>(kv.part) + part.values + kv.slot / 4 * 64 + kv.slot % 4;
  const float key_scale = quantize_head<V>(kv.key, kv.key_bias, kv.head_dim, [&](int64_t begin, const int8_t* codes) {
    for (int64_t i = 0; i < 16 && begin + i < quads * 4; ++i) {
      key[(begin + i) / 4 * 64 + i % 4] = static_cast<uint8_t>(codes[i] + 128);
    }
  });
  const float value_scale = quantize_head<V>(kv.value, kv.value_bias, kv.head_dim, [&](int64_t begin, const int8_t* codes) {
    for (int i = 0; i < 16; ++i) value[begin * kKvBlock + i * 4] = codes[i];
  });
  reinterpret_cast<float*>(kv.part + part.key_scales)[kv.slot] = key_scale;
  reinterpret_cast<float*>(kv.part + part.value_scales)[kv.slot] = value_scale;
  return true;
}

template <AttentionProducts P>
struct Int8Kv {
  using Floats = P::Floats;
  using V = Floats;
  using Quad = P::Quad;
  using Integers = P::Integers;
  static constexpr int kRowsAtOnce = P::kRowsAtOnce;

  KvPart part;
  int64_t quads;     // of a query
  Quad* queries;     // [rows][quads]
  float* scales;     // [rows], of the query and of attention
  int32_t* offsets;  // [rows], -128 * the sum of the query's codes: what the keys' zero point adds

  Int8Kv(const AttentionTask& task, float* scratch) : part(kv_part(KvDType::kInt8, task.head_dim)), quads((task.head_dim + 3) / 4) {
    const int64_t rows = task.tokens * task.heads;
    queries = reinterpret_cast<Quad*>(scratch);
    scales = reinterpret_cast<float*>(queries + rows * quads);
    offsets = reinterpret_cast<int32_t*>(scales + rows);
    for (int64_t row = 0; row < rows; ++row) {
      const float* q = task.q + row / task.heads * task.q_stride + row % task.heads * task.head_dim;
      int32_t sum = 0;
      const float scale = quantize_head<V>(q, nullptr, task.head_dim, [&](int64_t begin, const int8_t* codes) {
        for (int i = 0; i < 16; ++i) sum += codes[i];
        for (int64_t i = begin / 4; i < begin / 4 + 4 && i < quads; ++i)
          queries[row * quads + i] = P::quad_of(codes + (i * 4 - begin));
      });
      scales[row] = scale * score_scale(task);
      offsets[row] = -128 * sum;
    }
  }

  template <int kRows, bool kMasked>
  void rows_of_block(const View& view, const RowStates& state, int64_t row) const {
    const int tiles = kMasked ? view.tiles : kKvBlock / 16;
    const auto* key_scales = reinterpret_cast<const float*>(view.part + part.key_scales);
    const auto* value_scales = reinterpret_cast<const float*>(view.part + part.value_scales);
    alignas(64) float scores[kRows][kKvBlock];
    constexpr int kDotRows = kRows < P::kDotRows ? kRows : P::kDotRows;
    in_groups<P::kDotTiles>(0, tiles, [&]<int kTiles>(int64_t tile) {
      for (int first = 0; first < kRows; first += kDotRows) {
        Integers sum[kTiles * kDotRows];
        for (int i = 0; i < kTiles * kDotRows; ++i) sum[i] = P::set1_i32(offsets[row + first + i % kDotRows]);
        P::template dot_keys<kDotRows, kTiles>(view.part + tile * quads * 64, quads * 64, queries + (row + first) * quads, quads,
                                               quads, view.ahead, sum);
        for (int t = 0; t < kTiles; ++t) {
          const V scale = V::load(key_scales + (tile + t) * 16);
          for (int r = 0; r < kDotRows; ++r) {
            store(scores[first + r] + (tile + t) * 16,
                  mul(P::to_float(sum[t * kDotRows + r]), mul(scale, V::set1(scales[row + first + r]))));
          }
        }
      }
    });
    float rescale[kRows], numerator_scale[kRows];
    V largest[kRows];
    for (int r = 0; r < kRows; ++r) largest[r] = V::set1(0.0f);
    online_softmax<V, kRows, kMasked>(scores, view, state, row, rescale, [&](int r, int tile, V p) {
      // Selected again: the scale of a value that the row does not see may be NaN.
      const V numerator = view.seen<kMasked>(r, tile, mul(p, V::load(value_scales + tile * 16)), 0.0f);
      store(scores[r] + tile * 16, numerator);
      largest[r] = max_or_nan(largest[r], numerator);
    });
    alignas(64) Quad numerators[kRows][kKvBlock / 4];
    alignas(64) float maxima[16];
    reduce_max_or_nan_of_rows<kRows>(largest, maxima);
    for (int r = 0; r < kRows; ++r) {
      const float maximum = maxima[r];
      const V inverse = V::set1(maximum > kLeastMaximum ? 255.0f / maximum : 0.0f);
      numerator_scale[r] = maximum * (1.0f / 255.0f);
      for (int tile = 0; tile < tiles; ++tile) {
        P::store_quads(numerators[r] + tile * 4, fma(V::load(scores[r] + tile * 16), inverse, V::set1(kMagic)));
      }
    }
    in_groups<P::kDotTiles>(0, state.width / 16, [&]<int kTiles>(int64_t tile) {
      for (int first = 0; first < kRows; first += kDotRows) {
        Integers sum[kTiles * kDotRows];
        for (auto& s : sum) s = P::set1_i32(0);
        P::template dot_values<kDotRows, kTiles>(view.part + part.values + tile * kValueTile, kValueTile, numerators[first],
                                                 kKvBlock / 4, tiles * 4, view.ahead, sum);
        for (int t = 0; t < kTiles; ++t) {
          for (int r = 0; r < kDotRows; ++r) {
            float* values = state.values_of(row + first + r) + (tile + t) * 16;
            const V rescaled = mul(V::load(values), V::set1(rescale[first + r]));
            store(values, fma(P::to_float(sum[t * kDotRows + r]), V::set1(numerator_scale[first + r]), rescaled));
          }
        }
      }
    });
  }
};

}  // namespace
}  // namespace gptbigcode
