#include "model/weights.h"

#include <cmath>

#include "base/error.h"
#include "kernels/pack.h"

namespace gptbigcode {
namespace {

std::string text(const std::vector<int64_t>& shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

const TensorView& get(const FindTensor& find, const std::string& name, const std::vector<int64_t>& shape) {
  const TensorView* tensor = find(name);
  require(tensor != nullptr, "missing tensor ", name);
  if (tensor->shape != shape) {
    require(false, "tensor ", name, " has shape ", text(tensor->shape), ", expected ", text(shape));
  }
  return *tensor;
}

const float* get_float(const FindTensor& find, const std::string& name, const std::vector<int64_t>& shape) {
  const TensorView& tensor = get(find, name, shape);
  require(tensor.kind == 'f' && tensor.itemsize == 4, "tensor ", name, " must be float32");
  return reinterpret_cast<const float*>(tensor.data);
}

bool has_type(const TensorView& tensor, DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return tensor.kind == 'f' && tensor.itemsize == 4;
    case DType::kBFloat16: return tensor.kind == 'u' && tensor.itemsize == 2;
    default: return tensor.kind == 'u' && tensor.itemsize == 1;
  }
}

Linear get_linear(const FindTensor& find, const std::string& name, DType dtype, int64_t n, int64_t k, const float* bias) {
  const TensorView& tensor = get(find, name + ".weight", tile_shape(dtype, n, k));
  require(has_type(tensor, dtype), "tensor ", name, ".weight has the wrong type");
  return {dtype, tensor.data, bias, n, k};
}

LayerNorm get_layer_norm(const FindTensor& find, const std::string& name, int64_t n) {
  return {get_float(find, name + ".weight", {n}), get_float(find, name + ".bias", {n})};
}

struct Name {
  const char* name;
  Activation activation;
};
constexpr Name kActivations[] = {
    {"gelu", Activation::kGeluErf},
    {"gelu_10", Activation::kGelu10},
    {"gelu_accurate", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_python", Activation::kGeluErf},
    {"gelu_python_tanh", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"leaky_relu", Activation::kLeakyRelu},
    {"linear", Activation::kLinear},
    {"mish", Activation::kMish},
    {"quick_gelu", Activation::kQuickGelu},
    {"relu", Activation::kRelu},
    {"relu2", Activation::kRelu2},
    {"relu6", Activation::kRelu6},
    {"sigmoid", Activation::kSigmoid},
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"tanh", Activation::kTanh},
};

}  // namespace

Activation parse_activation(const std::string& name) {
  for (const auto& [known, activation] : kActivations) {
    if (name == known) return activation;
  }
  throw std::invalid_argument("unknown activation function '" + name + "'");
}

std::vector<std::string> activation_names() {
  std::vector<std::string> names;
  for (const auto& [name, activation] : kActivations) names.emplace_back(name);
  return names;
}

DType ModelConfig::dtype_of(const std::string& tensor) const {
  const auto found = dtypes.find(tensor);
  return found == dtypes.end() ? dtype : found->second;
}

void ModelConfig::validate() const {
  constexpr int64_t kLimit = 1 << 24;  // no size product below overflows 64 bits
  const auto positive = [&](int64_t value, const char* name) {
    require(value > 0 && value <= kLimit, name, " is ", value, ", outside 1..", kLimit);
  };
  positive(vocab_size, "vocab_size");
  positive(n_positions, "n_positions");
  positive(n_embd, "n_embd");
  positive(n_layer, "n_layer");
  positive(n_head, "n_head");
  positive(n_inner, "n_inner");
  require(n_embd % n_head == 0, "n_embd is not a multiple of n_head");
  require(n_kv_head == 1 || n_kv_head == n_head, "n_kv_head must be 1 or n_head");
  constexpr int64_t kWidestInt8Head = 1 << 16;  // sums of 65536 products of codes fit 32 bits
  require(kv_dtype != KvDType::kInt8 || head_dim() <= kWidestInt8Head, "an int8 KV cache needs heads of at most ", kWidestInt8Head,
          " elements");
  require(layer_norm_epsilon >= 0 && std::isfinite(layer_norm_epsilon), "layer_norm_epsilon must be a non-negative number");
  require(std::isfinite(attention_scale), "attention_scale must be finite");
}

Weights bind_weights(const ModelConfig& config, const FindTensor& find) {
  const std::string root = "transformer.";
  const auto linear = [&](const std::string& name, int64_t n, int64_t k, const float* bias) {
    return get_linear(find, name, config.dtype_of(name + ".weight"), n, k, bias);
  };
  const auto scale = [&](const std::string& name, DType dtype) {
    return is_quantized(dtype) ? get_float(find, name + ".column_scale", {config.n_embd}) : nullptr;
  };

  Weights weights;
  weights.wte = linear(root + "wte", config.vocab_size, config.n_embd, nullptr);
  weights.wte_scale = scale(root + "wte", weights.wte.dtype);
  if (find("lm_head.weight") == nullptr) {
    weights.lm_head = weights.wte;
    weights.lm_head_scale = weights.wte_scale;
  } else {
    weights.lm_head = linear("lm_head", config.vocab_size, config.n_embd, nullptr);
    weights.lm_head_scale = scale("lm_head", weights.lm_head.dtype);
  }
  if (config.dtype == DType::kInt6 || config.dtype == DType::kInt4) {
    weights.wpe = linear(root + "wpe", config.n_positions, config.n_embd, nullptr);
    weights.wpe_type = Weights::PositionType::kPacked;
  } else {
    const TensorView& wpe = get(find, root + "wpe.weight", {config.n_positions, config.n_embd});
    weights.wpe.weights = wpe.data;
    weights.wpe_type = wpe.itemsize == 4 ? Weights::PositionType::kFloat32
                       : wpe.kind == 'u' ? Weights::PositionType::kBFloat16
                                         : Weights::PositionType::kFloat16;
    require((wpe.kind == 'f' && wpe.itemsize == 4) || ((wpe.kind == 'u' || wpe.kind == 'f') && wpe.itemsize == 2),
            "tensor transformer.wpe.weight must be float32, float16 or bfloat16");
  }
  for (int64_t i = 0; i < config.n_layer; ++i) {
    const std::string name = root + "h." + std::to_string(i) + ".";
    const int64_t kv_begin = config.qkv().key(0), kv_rows = config.qkv().width() - kv_begin;
    const auto biased = [&](const char* part, int64_t n, int64_t k) {
      return linear(name + part, n, k, get_float(find, name + part + ".bias", {n}));
    };
    const float* c_attn_bias = get_float(find, name + "attn.c_attn.bias", {config.qkv().width()});
    weights.layers.push_back({
        .ln_1 = get_layer_norm(find, name + "ln_1", config.n_embd),
        .ln_2 = get_layer_norm(find, name + "ln_2", config.n_embd),
        .query = linear(name + "attn.c_attn.query", config.n_embd, config.n_embd, c_attn_bias),
        .key_value = linear(name + "attn.c_attn.key_value", kv_rows, config.n_embd, c_attn_bias + kv_begin),
        .attn_c_proj = biased("attn.c_proj", config.n_embd, config.n_embd),
        .c_fc = biased("mlp.c_fc", config.n_inner, config.n_embd),
        .mlp_c_proj = biased("mlp.c_proj", config.n_embd, config.n_inner),
    });
  }
  weights.ln_f = get_layer_norm(find, root + "ln_f", config.n_embd);
  return weights;
}

}  // namespace gptbigcode
