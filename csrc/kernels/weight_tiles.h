// How packed weights lie in memory: tiles of sixteen output features, cut into blocks of 128 input features (docs/format.md).
#pragma once

#include <cstddef>
#include <cstdint>

namespace gptbigcode {

inline constexpr int kTileRows = 16;  // output features of a tile, and lanes of every reduction
inline constexpr int kBlock = 128;    // input features that share a float scale of the activations
inline constexpr int kGroup = 16;     // input features whose codes lie together in a block, and whose products fit 16 bits
inline constexpr size_t kInt8BlockBytes = kTileRows * kBlock + kTileRows * 2;
inline constexpr size_t kInt4BlockBytes = kTileRows * kBlock / 2 + kTileRows;
inline constexpr int kInt6Group = 32;                                   // input features that share a multiplier
inline constexpr size_t kInt6Multipliers = kTileRows * kBlock * 6 / 8;  // where they are in a block
inline constexpr size_t kInt6BlockBytes = kInt6Multipliers + kTileRows * kBlock / kInt6Group;
inline constexpr size_t kRowScaleBytes = kTileRows * 4;  // of int4 and int6, after the blocks of a tile

enum class DType { kFloat32, kBFloat16, kInt8, kInt6, kInt4 };
static inline bool is_quantized(DType dtype) { return dtype != DType::kFloat32 && dtype != DType::kBFloat16; }

// int4: weight = row scale * multiplier * (codebook[code] + offset). There is a byte per row and block: its two low bits are
// offset + 1, the six above are the multiplier, -31..31. The codebook was fitted to weights of trained models and to Gaussian and
// heavy-tailed ones (docs/quantization-study.md). |codebook + offset| <= 16, so sixteen products fit 16 bits: 16 * 16 * 127 =
// 32512.
inline constexpr int8_t kInt4Codebook[16] = {-15, -13, -10, -8, -6, -4, -3, -1, 0, 1, 3, 5, 7, 9, 11, 14};
inline constexpr int kInt4Zero = 16;  // added to codebook entries where an instruction wants unsigned bytes
inline constexpr int kInt4MaxMultiplier = 31;
inline constexpr int kInt4MinOffset = -1, kInt4MaxOffset = 2;

// int6: weight = row scale * multiplier * code. Codes are -32..31, stored as code + 32. Eight products fit 16 bits: 8 * 32 * 127.
inline constexpr int kInt6Zero = 32, kInt6MaxMultiplier = 127;

// Of sixteen columns, a byte holds the code of column i in its low nibble and that of column i + 8 in its high one. int6 keeps the
// two bits above these in a second plane of bytes.
static inline int nibble_of(const std::byte* block, int row, int column) {
  const auto pair = std::to_integer<int>(block[column / 16 * 128 + column % 8 / 4 * 64 + row * 4 + column % 4]);
  return column % 16 < 8 ? pair & 15 : pair >> 4;
}
static inline int int6_code(const std::byte* block, int row, int column) {
  const auto high = std::to_integer<int>(block[kTileRows * kBlock / 2 + column / 16 * 64 + row * 4 + column % 4]);
  return (nibble_of(block, row, column) | (high >> column % 16 / 4 * 2 & 3) << 4) - kInt6Zero;
}

// How the error of quantising a column is made up for in later columns (GPTQ, arXiv:2210.17323). The columns are cut into spans.
// Row i has `span` floats, one per column of i's span. For a column j > i it is the factor by which the error of column i is added
// to column j. For column i itself it is how much an error in column i matters.
struct ErrorFeedback {
  const float* rows = nullptr;  // [k][span]; null: errors stay
  int64_t span = 1, k = 0;

  const float* row(int64_t i) const { return rows + i * span; }
  float importance(int64_t i) const { return row(i)[i % span]; }
  int64_t span_end(int64_t i) const { return i / span * span + span < k ? i / span * span + span : k; }
};

}  // namespace gptbigcode
