// Attention over keys and values in int8. Queries and the softmax's numerators are quantised too, so that both products are integer
// sums, exact in any order:
//
//   score  = float(sum of q * k) * (scale of the key * (scale of the query * scale of attention * log2(e)))
//   p      = 2^(score - maximum); numerator = p * scale of the value, as 0..255 with one scale per row and KV block
//   values = fma(float(sum of numerator * v), scale of the numerators, values * rescale), KV block after KV block
//
// Included by each instruction set's file after it has defined:
//
//   struct Quad                                        four codes of one row as the products want them, 8 bytes at most
//   Quad quad_of(const int8_t*)                        of a query
//   void store_quads(Quad[4], f32x16)                  sixteen numerators 0..255, given as 1.5 * 2^23 + n
//   struct i32x16; f32x16 to_float(i32x16); i32x16 set1_i32(int32_t)
//   void dot_keys<rows, tiles>(tile, tile_stride, quads, stride, count, ahead, i32x16 sum[tiles][rows])
//                                                      sum[t][r] += sum of key code * query, code 0..255; prefetches what
//                                                      lies `ahead` bytes after the codes
//   void dot_values<rows, tiles>(...)                  sum[t][r] += sum of numerator * value
//   constexpr int kInt8RowsAtOnce                      a power of two, at most 16
//   constexpr int kInt8DotRows, kAttentionTiles        of dot_keys and dot_values at most
//
// A tile is [count][16 lanes][4 codes]; tile t begins at tile + t * tile_stride, row r's quads at quads + r * stride.

constexpr int64_t kValueTile = kKvBlock * 16;  // bytes
constexpr float kLeastMaximum = 1e-30f;        // below it a row is zero: its inverse would overflow

// Sixteen elements at a time: put(begin, codes -127..127). Returns the scale.
template <class Put>
inline float quantize_head(const float* x, const float* bias, int64_t head_dim, Put put) {
  f32x16 largest = set1(0.0f);
  for (int64_t i = 0; i < head_dim; i += 16) {
    const f32x16 v = load_head(x, bias, i, head_dim);
    largest = max_or_nan(largest, magnitude(v));
  }
  const float maximum = reduce_max_or_nan(largest);
  const f32x16 inverse = set1(maximum > kLeastMaximum ? 127.0f / maximum : 0.0f);
  for (int64_t i = 0; i < head_dim; i += 16) {
    alignas(64) float lanes[16];
    store(lanes, fma(load_head(x, bias, i, head_dim), inverse, set1(kMagic)));
    int32_t bits[16];  // the low byte is the code
    __builtin_memcpy(bits, lanes, sizeof(bits));
    int8_t codes[16];
    for (int j = 0; j < 16; ++j) codes[j] = static_cast<int8_t>(bits[j] << 24 >> 24);
    put(i, codes);
  }
  return maximum <= kLeastMaximum ? 0.0f : maximum / 127.0f;  // NaN and infinity stay, and make NaN of every product
}

bool write_kv_int8(const KvWrite& kv) {
  const KvPart part = kv_part(KvDType::kInt8, kv.head_dim);
  const int64_t quads = (kv.head_dim + 3) / 4;
  auto* key = reinterpret_cast<uint8_t*>(kv.part) + kv.slot / 16 * quads * 64 + kv.slot % 16 * 4;
  auto* value = reinterpret_cast<int8_t*>(kv.part) + part.values + kv.slot / 4 * 64 + kv.slot % 4;
  const float key_scale = quantize_head(kv.key, kv.key_bias, kv.head_dim, [&](int64_t begin, const int8_t* codes) {
    for (int64_t i = 0; i < 16 && begin + i < quads * 4; ++i) {
      key[(begin + i) / 4 * 64 + i % 4] = static_cast<uint8_t>(codes[i] + 128);
    }
  });
  const float value_scale = quantize_head(kv.value, kv.value_bias, kv.head_dim, [&](int64_t begin, const int8_t* codes) {
    for (int i = 0; i < 16; ++i) value[begin * kKvBlock + i * 4] = codes[i];
  });
  reinterpret_cast<float*>(kv.part + part.key_scales)[kv.slot] = key_scale;
  reinterpret_cast<float*>(kv.part + part.value_scales)[kv.slot] = value_scale;
  return true;
}

struct Int8Kv {
  static constexpr int kRowsAtOnce = kInt8RowsAtOnce;
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
      const float scale = quantize_head(q, nullptr, task.head_dim, [&](int64_t begin, const int8_t* codes) {
        for (int i = 0; i < 16; ++i) sum += codes[i];
        for (int64_t i = begin / 4; i < begin / 4 + 4 && i < quads; ++i)
          queries[row * quads + i] = quad_of(codes + (i * 4 - begin));
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
    constexpr int kDotRows = kRows < kInt8DotRows ? kRows : kInt8DotRows;
    in_groups<kAttentionTiles>(0, tiles, [&]<int kTiles>(int64_t tile) {
      for (int first = 0; first < kRows; first += kDotRows) {
        i32x16 sum[kTiles * kDotRows];
        for (int i = 0; i < kTiles * kDotRows; ++i) sum[i] = set1_i32(offsets[row + first + i % kDotRows]);
        dot_keys<kDotRows, kTiles>(view.part + tile * quads * 64, quads * 64, queries + (row + first) * quads, quads, quads,
                                   view.ahead, sum);
        for (int t = 0; t < kTiles; ++t) {
          const f32x16 scale = load(key_scales + (tile + t) * 16);
          for (int r = 0; r < kDotRows; ++r) {
            store(scores[first + r] + (tile + t) * 16,
                  mul(to_float(sum[t * kDotRows + r]), mul(scale, set1(scales[row + first + r]))));
          }
        }
      }
    });
    float rescale[kRows], numerator_scale[kRows];
    f32x16 largest[kRows];
    for (int r = 0; r < kRows; ++r) largest[r] = set1(0.0f);
    online_softmax<kRows, kMasked>(scores, view, state, row, rescale, [&](int r, int tile, f32x16 p) {
      // Selected again: the scale of a value that the row does not see may be NaN.
      const f32x16 numerator = view.seen<kMasked>(r, tile, mul(p, load(value_scales + tile * 16)), 0.0f);
      store(scores[r] + tile * 16, numerator);
      largest[r] = max_or_nan(largest[r], numerator);
    });
    alignas(64) Quad numerators[kRows][kKvBlock / 4];
    alignas(64) float maxima[16];
    reduce_max_or_nan_of_rows<kRows>(largest, maxima);
    for (int r = 0; r < kRows; ++r) {
      const float maximum = maxima[r];
      const f32x16 inverse = set1(maximum > kLeastMaximum ? 255.0f / maximum : 0.0f);
      numerator_scale[r] = maximum * (1.0f / 255.0f);
      for (int tile = 0; tile < tiles; ++tile) {
        store_quads(numerators[r] + tile * 4, fma(load(scores[r] + tile * 16), inverse, set1(kMagic)));
      }
    }
    in_groups<kAttentionTiles>(0, state.width / 16, [&]<int kTiles>(int64_t tile) {
      for (int first = 0; first < kRows; first += kDotRows) {
        i32x16 sum[kTiles * kDotRows];
        for (auto& s : sum) s = set1_i32(0);
        dot_values<kDotRows, kTiles>(view.part + part.values + tile * kValueTile, kValueTile, numerators[first], kKvBlock / 4,
                                     tiles * 4, view.ahead, sum);
        for (int t = 0; t < kTiles; ++t) {
          for (int r = 0; r < kDotRows; ++r) {
            float* values = state.values_of(row + first + r) + (tile + t) * 16;
            const f32x16 rescaled = mul(load(values), set1(rescale[first + r]));
            store(values, fma(to_float(sum[t * kDotRows + r]), set1(numerator_scale[first + r]), rescaled));
          }
        }
      }
    });
  }
};
