// Calls of a small model from several threads at once, some of which are ended early by a stop flag. Built with ThreadSanitizer
// (GPTBIGCODE_CPU_RACE_TEST in CMakeLists.txt) and run by .ci/run. Prints "done" if there was no race, and if every call gave the
// bits that a model with one thread gives.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/stop_flag.h"
#include "base/thread_pool.h"
#include "kernels/pack.h"
#include "model/model.h"

using namespace gptbigcode;

namespace {

void fail(const char* what) {
  std::puts(what);
  std::exit(1);
}

// Random weights of one type, and the views that a model takes.
class RandomWeights {
 public:
  RandomWeights(const ModelConfig& config, const Kernels& kernels) : kernels_(kernels), pool_(1, 1) {
    const int64_t n_embd = config.n_embd, kv_rows = config.qkv().width() - n_embd;
    packed("transformer.wte", config.dtype, config.vocab_size, n_embd);
    if (is_quantized(config.dtype)) floats("transformer.wte.column_scale", {n_embd});
    if (config.dtype == DType::kInt4 || config.dtype == DType::kInt6) {
      packed("transformer.wpe", config.dtype, config.n_positions, n_embd);
    } else {
      floats("transformer.wpe.weight", {config.n_positions, n_embd});
    }
    for (int64_t i = 0; i < config.n_layer; ++i) {
      const std::string layer = "transformer.h." + std::to_string(i) + ".";
      for (const char* norm : {"ln_1", "ln_2"}) layer_norm(layer + norm, n_embd);
      packed(layer + "attn.c_attn.query", config.dtype, n_embd, n_embd);
      packed(layer + "attn.c_attn.key_value", config.dtype, kv_rows, n_embd);
      floats(layer + "attn.c_attn.bias", {n_embd + kv_rows});
      linear(layer + "attn.c_proj", config.dtype, n_embd, n_embd);
      linear(layer + "mlp.c_fc", config.dtype, config.n_inner, n_embd);
      linear(layer + "mlp.c_proj", config.dtype, n_embd, config.n_inner);
    }
    layer_norm("transformer.ln_f", n_embd);
  }

  const TensorView* find(const std::string& name) const {
    const auto found = views_.find(name);
    return found == views_.end() ? nullptr : &found->second;
  }

 private:
  std::vector<float> random_floats(int64_t count) {
    std::normal_distribution<float> normal(0.0f, 0.2f);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal(random_);
    return values;
  }
  std::byte* own(const std::string& name, size_t bytes) {
    memory_[name].reserve(bytes);
    return memory_[name].data();
  }
  void floats(const std::string& name, const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    const std::vector<float> values = random_floats(count);
    std::byte* data = own(name, values.size() * sizeof(float));
    std::memcpy(data, values.data(), values.size() * sizeof(float));
    views_[name] = {data, shape, 'f', 4};
  }
  void packed(const std::string& name, DType dtype, int64_t n, int64_t k) {
    const std::vector<float> values = random_floats(n * k);
    const int64_t tiles = (n + kTileRows - 1) / kTileRows;
    std::byte* data = own(name + ".weight", static_cast<size_t>(tiles * tile_bytes(dtype, k)));
    pack({.source = values.data(), .n = n, .k = k, .dtype = dtype, .kernels = &kernels_, .out = data, .feedback = {}}, pool_);
    const bool is_float = dtype == DType::kFloat32;
    views_[name + ".weight"] = {data, tile_shape(dtype, n, k), is_float ? 'f' : 'u', is_float ? 4 : 1};
  }
  void linear(const std::string& name, DType dtype, int64_t n, int64_t k) {
    packed(name, dtype, n, k);
    floats(name + ".bias", {n});
  }
  void layer_norm(const std::string& name, int64_t n) {
    floats(name + ".weight", {n});
    floats(name + ".bias", {n});
  }

  const Kernels& kernels_;
  ThreadPool pool_;
  std::mt19937 random_{5};
  std::map<std::string, AlignedBuffer<std::byte>> memory_;
  std::map<std::string, TensorView> views_;
};

// A prompt and some steps after it; `stop` may end any call, which is then made again without it.
std::vector<float> logits_of(Model& model, int32_t seed, const StopFlag* stop) {
  const ModelConfig& config = model.config();
  const auto vocab = static_cast<int32_t>(config.vocab_size);
  std::vector<float> all;
  KVCache cache(model.kv_layout());
  for (const int64_t count : {40, 1, 1, 5, 1}) {
    std::vector<int32_t> tokens;
    for (int32_t t = 0; t < count; ++t) tokens.push_back((seed * 31 + t * 7) % vocab);
    std::vector<float> logits(static_cast<size_t>(vocab));
    const std::vector<Run> runs{{.cache = &cache, .tokens = tokens.data(), .n_tokens = count, .logits_to_keep = 1}};
    const int64_t before = cache.size();
    try {
      model.forward(runs, {.logits = logits.data()}, {.flag = stop, .ask = nullptr});
    } catch (const Stopped&) {
      if (cache.size() != before) fail("a stopped call has changed its cache");
      model.forward(runs, {.logits = logits.data()});
    }
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

void run(DType dtype, KvDType kv_dtype) {
  const ModelConfig config{
      .vocab_size = 97,
      .n_positions = 64,
      .n_embd = 64,
      .n_layer = 2,
      .n_head = 4,
      .n_kv_head = 1,
      .n_inner = 300,
      .activation = Activation::kGeluTanh,
      .layer_norm_epsilon = 1e-5f,
      .attention_scale = 0.25f,
      .dtype = dtype,
      .dtypes = {},
      .kv_dtype = kv_dtype,
  };
  const Kernels& kernels = select_kernels("");
  const RandomWeights weights(config, kernels);
  const auto find = [&](const std::string& name) { return weights.find(name); };
  Model alone(config, find, kernels, 1, 1, false), shared(config, find, kernels, 3, 2, true);
  constexpr int kCallers = 3, kRounds = 20;
  std::vector<std::vector<float>> expected;
  for (int caller = 0; caller < kCallers; ++caller) expected.push_back(logits_of(alone, caller, nullptr));

  StopFlag stop;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < kRounds; ++round) {
        const std::vector<float> logits = logits_of(shared, caller, caller == 0 ? nullptr : &stop);
        const std::vector<float>& wanted = expected[static_cast<size_t>(caller)];
        if (std::memcmp(logits.data(), wanted.data(), wanted.size() * sizeof(float)) != 0) fail("other bits than of one thread");
        if (caller == 1) stop.set();
        if (caller == 2) stop.clear();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main() {
  run(DType::kInt4, KvDType::kInt8);
  run(DType::kInt8, KvDType::kInt8);
  run(DType::kFloat32, KvDType::kFloat32);
  std::puts("done");
}
