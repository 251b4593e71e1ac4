// What the processor and the operating system offer together, as one mask.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gptbigcode {

enum Feature : uint32_t {
  kAvx2 = 1u << 0,
  kFma = 1u << 1,
  kF16c = 1u << 2,
  kAvxVnni = 1u << 3,
  kAvx512f = 1u << 4,
  kAvx512bw = 1u << 5,
  kAvx512dq = 1u << 6,
  kAvx512vl = 1u << 7,
  kAvx512Vnni = 1u << 8,
  kAvx512Bf16 = 1u << 9,
  kAmxTile = 1u << 10,
  kAmxInt8 = 1u << 11,
  kNeon = 1u << 16,
  kDotprod = 1u << 17,
  kI8mm = 1u << 18,
};

uint32_t cpu_features();                                // detected once
std::vector<std::string> feature_names(uint32_t mask);  // lower case, as in /proc/cpuinfo

}  // namespace gptbigcode
