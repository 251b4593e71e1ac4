// What a kernel set puts into its record.
#pragma once

#include "kernels/generic/activations.h"
#include "kernels/generic/attention_float.h"
#include "kernels/generic/attention_int8.h"
#include "kernels/generic/linear_float.h"
#include "kernels/generic/pack_int4.h"
#include "kernels/generic/pack_int6.h"
#include "kernels/generic/read.h"
#include "kernels/generic/rows.h"
#include "kernels/generic/sampling.h"
#include "kernels/generic/softmax.h"

namespace gptbigcode {
namespace {

// What an instruction set has to provide. Everything else is made of it.
template <class Set>
concept KernelSet = Lanes<typename Set::Floats> && requires(const int8_t* codes, int32_t* starts) {
  requires sizeof(typename Set::SamplingFloats) >= sizeof(Float4);  // Float4, or Float8 where registers are that wide
  requires Set::kFloatRowsAtOnce >= 1;  // rows of attention over floats whose sums fit the registers; a power of two
  { Set::sum_codes(codes, starts) } -> std::same_as<int32_t>;  // the sum of 128 codes; fills ActivationBlock::starts
  { Set::linear_int8 } -> std::convertible_to<LinearKernel>;
  { Set::linear_int6 } -> std::convertible_to<LinearKernel>;
  { Set::linear_int4 } -> std::convertible_to<LinearKernel>;
  { Set::attention_int8 } -> std::convertible_to<AttentionKernel>;
  { Set::int8_peak(int64_t{1}) } -> std::same_as<int64_t>;
};

template <KernelSet Set, class Element>
constexpr AttentionKernel kFloatAttention = attention<FloatKv<typename Set::Floats, Element, Set::kFloatRowsAtOnce>>;

template <KernelSet Set>
constexpr Kernels kernel_set(const char* name, uint32_t required) noexcept {
  using V = Set::Floats;
  using SamplingFloats = Set::SamplingFloats;
  return {
      .name = name,
      .required = required,
      .linear_float32 = linear_float<V, float>,
      .linear_bfloat16 = linear_float<V, uint16_t>,
      .linear_int8 = Set::linear_int8,
      .linear_int6 = Set::linear_int6,
      .linear_int4 = Set::linear_int4,
      .quantize = quantize<Set>,
      .pack_int6 = pack_int6<V>,
      .pack_int4 = pack_int4<V>,
      .layer_norm = layer_norm<V>,
      .activate = activate<V>,
      .write_kv = {write_kv_float<float>, write_kv_float<BFloat16>, write_kv_float<Float16>, write_kv_int8<V>},
      .attention = {kFloatAttention<Set, float>, kFloatAttention<Set, BFloat16>, kFloatAttention<Set, Float16>,
                    Set::attention_int8},
      .merge_attention = merge_attention<V>,
      .softmax = softmax<V>,
      .sampling = {find_maxima<SamplingFloats>, weigh<SamplingFloats>, keep_before<SamplingFloats>},
      .read = read<V>,
      .int8_peak = Set::int8_peak,
  };
}

}  // namespace
}  // namespace gptbigcode
