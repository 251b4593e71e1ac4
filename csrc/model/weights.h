// Typed views of a model's tensors. Nothing is copied: the views point into the mapped file, which the owner keeps alive.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/kernels.h"
#include "model/qkv_layout.h"

namespace gptbigcode {

struct ModelConfig {
  int64_t vocab_size, n_positions, n_embd, n_layer, n_head, n_kv_head, n_inner;
  Activation activation;
  float layer_norm_epsilon;
  float attention_scale;  // 1/sqrt(head_dim), or 1
  DType dtype;            // of the packed tensors that are not named in dtypes
  std::unordered_map<std::string, DType> dtypes;
  KvDType kv_dtype;  // of the KV cache

  int64_t head_dim() const { return n_embd / n_head; }
  QkvLayout qkv() const { return {n_head, n_kv_head, head_dim()}; }
  DType dtype_of(const std::string& tensor) const;
  void validate() const;  // throws std::invalid_argument
};

// A tensor as the caller offers it.
struct TensorView {
  const std::byte* data = nullptr;
  std::vector<int64_t> shape;
  char kind = 'f';  // numpy's letter: 'f' float, 'u' unsigned integer (two bytes: bfloat16)
  int itemsize = 0;
};
using FindTensor = std::function<const TensorView*(const std::string& name)>;  // null if there is none

struct Linear {
  DType dtype = DType::kFloat32;
  const std::byte* weights = nullptr;
  const float* bias = nullptr;  // null: none
  int64_t n = 0, k = 0;
};

struct LayerNorm {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

struct Layer {
  LayerNorm ln_1, ln_2;
  Linear query, key_value;  // the rows of c_attn in two parts, in the order of QkvLayout; the biases of both lie together
  Linear attn_c_proj, c_fc, mlp_c_proj;
};

struct Weights {
  enum class PositionType { kFloat32, kFloat16, kBFloat16, kPacked };

  Linear wte;  // [vocab, n_embd]; rows are looked up
  Linear lm_head;
  // [n_embd]: factors of the columns, by which quantised weights have to be multiplied; null for float weights.
  const float *wte_scale = nullptr, *lm_head_scale = nullptr;
  Linear wpe;  // [n_positions, n_embd]; rows are looked up; one plain row after another if it is not packed
  PositionType wpe_type = PositionType::kFloat32;
  std::vector<Layer> layers;
  LayerNorm ln_f;
};

// Throws std::invalid_argument if a tensor is missing or has the wrong type or shape.
Weights bind_weights(const ModelConfig& config, const FindTensor& find);

Activation parse_activation(const std::string& name);  // transformers' names; throws std::invalid_argument
std::vector<std::string> activation_names();

}  // namespace gptbigcode
