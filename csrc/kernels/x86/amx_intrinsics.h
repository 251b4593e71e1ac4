// The instructions on the tile registers of AMX, or what they do in plain C++, lane by lane as Intel's Intrinsics Guide describes
// it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/features.h"
#include "kernels/x86/avx512_intrinsics.h"

namespace gptbigcode {
namespace {

// How many rows, and bytes per row, each of the eight tile registers has (the operand of LDTILECFG, palette 1).
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

#if defined(GPTBIGCODE_CPU_EMULATE_VNNI)

constexpr uint32_t kRequiredForAmx = 0;

struct EmulatedTiles {
  TileShapes shapes;
  uint8_t bytes[8][16][64];
};
inline thread_local EmulatedTiles emulated_tiles;

inline void configure_tiles(const TileShapes& shapes) {
  emulated_tiles.shapes = shapes;
  std::memset(emulated_tiles.bytes, 0, sizeof(emulated_tiles.bytes));
}
inline void release_tiles() {}
template <int kTile>
inline void zero_tile() {
  std::memset(emulated_tiles.bytes[kTile], 0, sizeof(emulated_tiles.bytes[kTile]));
}
template <int kTile>
inline void load_tile(const void* p, size_t stride) {
  zero_tile<kTile>();
  for (size_t r = 0; r < emulated_tiles.shapes.rows[kTile]; ++r) {
    std::memcpy(emulated_tiles.bytes[kTile][r], static_cast<const std::byte*>(p) + r * stride,
                emulated_tiles.shapes.row_bytes[kTile]);
  }
}
template <int kTile>
inline void store_tile(void* p, size_t stride) {
  for (size_t r = 0; r < emulated_tiles.shapes.rows[kTile]; ++r) {
    std::memcpy(static_cast<std::byte*>(p) + r * stride, emulated_tiles.bytes[kTile][r], emulated_tiles.shapes.row_bytes[kTile]);
  }
}
template <int kSum, int kA, int kB, class A, class B>
inline void emulated_products() {
  const TileShapes& shapes = emulated_tiles.shapes;
  for (int r = 0; r < shapes.rows[kA]; ++r) {
    int32_t sums[16];
    std::memcpy(sums, emulated_tiles.bytes[kSum][r], sizeof(sums));
    for (int k = 0; k < shapes.row_bytes[kA]; ++k) {
      for (int n = 0; n < 16; ++n) {
        sums[n] += static_cast<A>(emulated_tiles.bytes[kA][r][k]) * static_cast<B>(emulated_tiles.bytes[kB][k / 4][n * 4 + k % 4]);
      }
    }
    std::memcpy(emulated_tiles.bytes[kSum][r], sums, sizeof(sums));
  }
}
// sum[r][n] += sum over k of a[r][k] * b[k / 4][n][k % 4]
template <int kSum, int kA, int kB>
inline void add_s8_s8() {
  emulated_products<kSum, kA, kB, int8_t, int8_t>();
}
template <int kSum, int kA, int kB>
inline void add_s8_u8() {
  emulated_products<kSum, kA, kB, int8_t, uint8_t>();
}
template <int kSum, int kA, int kB>
inline void add_u8_s8() {
  emulated_products<kSum, kA, kB, uint8_t, int8_t>();
}

#else

constexpr uint32_t kRequiredForAmx = kAmxTile | kAmxInt8;

// In assembly, because the intrinsics need the number of a register as a literal. The compiler uses no tile registers itself.
inline void configure_tiles(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
inline void release_tiles() { asm volatile("tilerelease"); }
template <int kTile>
inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
inline void load_tile(const void* p, size_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void store_tile(void* p, size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
// sum[r][n] += sum over k of a[r][k] * b[k / 4][n][k % 4]
template <int kSum, int kA, int kB>
inline void add_s8_s8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
template <int kSum, int kA, int kB>
inline void add_s8_u8() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
template <int kSum, int kA, int kB>
inline void add_u8_s8() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}

#endif

// While it exists, the tile registers are set up: 0 to 3 for the sums of two times sixteen rows with two tiles of weights, 4 and 5
// for the rows, 6 and 7 for the weights.
class TileRegisters {
 public:
  TileRegisters() = default;
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
  ~TileRegisters() { release_tiles(); }

  // How many rows of activations there are: 1 to 16 in registers 0, 1 and 4, and 0 to 16 in 2, 3 and 5.
  void set_rows(int64_t first_rows, int64_t second_rows) {
    if (first_rows == first_rows_ && second_rows == second_rows_) return;
    first_rows_ = first_rows;
    second_rows_ = second_rows;
    TileShapes shapes;
    const auto first = static_cast<uint8_t>(first_rows), second = static_cast<uint8_t>(second_rows);
    const uint8_t rows_of[8] = {first, first, second, second, first, second, 16, 16};
    for (int i = 0; i < 8; ++i) {
      shapes.rows[i] = rows_of[i];
      shapes.row_bytes[i] = rows_of[i] > 0 ? 64 : 0;
    }
    configure_tiles(shapes);
  }

 private:
  int64_t first_rows_ = 0, second_rows_ = 0;
};

}  // namespace
}  // namespace gptbigcode
