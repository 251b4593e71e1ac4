// What a kernel set puts into its record. Included at the end of each set's anonymous namespace, after it has defined linear_int8,
// linear_int6, linear_int4, attention_int8 and int8_peak.

constexpr Kernels kernel_set(const char* name, uint32_t required) noexcept {
  return {
      .name = name,
      .required = required,
      .linear_float32 = linear_float<float>,
      .linear_bfloat16 = linear_float<uint16_t>,
      .linear_int8 = linear_int8,
      .linear_int6 = linear_int6,
      .linear_int4 = linear_int4,
      .quantize = quantize,
      .pack_int6 = pack_int6,
      .pack_int4 = pack_int4,
      .layer_norm = layer_norm,
      .activate = activate,
      .write_kv = {write_kv_float<float>, write_kv_float<BFloat16>, write_kv_float<Float16>, write_kv_int8},
      .attention = {attention<FloatKv<float>>, attention<FloatKv<BFloat16>>, attention<FloatKv<Float16>>, attention_int8},
      .merge_attention = merge_attention,
      .softmax = softmax,
      .read = read,
      .int8_peak = int8_peak,
  };
}
