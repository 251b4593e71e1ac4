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

// int4: weight = row scale * multiplier * (codebook[code] + offset). A byte per row and block holds offset + 1 in its two low
// bits and the multiplier, -31..31, in the six above. Fitted to weights of trained models and to Gaussian and heavy-tailed ones
// (docs/quantization.md). |codebook + offset| <= 16, so that sixteen products fit 16 bits: 16 * 16 * 127 = 32512.
inline constexpr int8_t kInt4Codebook[16] = {-15, -13, -10, -8, -6, -4, -3, -1, 0, 1, 3, 5, 7, 9, 11, 14};
inline constexpr int kInt4Zero = 16;  // added to codebook entries where an instruction wants unsigned bytes
inline constexpr int kInt4MaxMultiplier = 31;
inline constexpr int kInt4MinOffset = -1, kInt4MaxOffset = 2;

// int6: weight = row scale * multiplier * code, codes -32..31, stored as code + 32; |code| * 127 * 16 / 2 fits 16 bits.
inline constexpr int kInt6Zero = 32, kInt6MaxMultiplier = 127;

// The low and the high nibbles of a byte are codes of columns i and i + 8 of sixteen; int6 has the two bits above in another plane.
static inline int nibble_of(const std::byte* block, int row, int column) {
  const auto pair = std::to_integer<int>(block[column / 16 * 128 + column % 8 / 4 * 64 + row * 4 + column % 4]);
  return column % 16 < 8 ? pair & 15 : pair >> 4;
}
static inline int int6_code(const std::byte* block, int row, int column) {
  const auto high = std::to_integer<int>(block[kTileRows * kBlock / 2 + column / 16 * 64 + row * 4 + column % 4]);
  return (nibble_of(block, row, column) | (high >> column % 16 / 4 * 2 & 3) << 4) - kInt6Zero;
}

// What is made of the error of quantising a column (GPTQ, arXiv:2210.17323). The columns are cut into spans. Row i has `span`
// floats: at the place of a column j > i of i's span what the error is multiplied with to be added to j, and at i's own place the
// weight of an error in i.
struct ErrorFeedback {
  const float* rows = nullptr;  // [k][span]; null: errors stay
  int64_t span = 1, k = 0;

  const float* row(int64_t i) const { return rows + i * span; }
  float importance(int64_t i) const { return row(i)[i % span]; }
  int64_t span_end(int64_t i) const { return i / span * span + span < k ? i / span * span + span : k; }
};

}  // namespace gptbigcode
