#include <memory>
#include <unordered_map>

#include "base/error.h"
#include "bindings/bindings.h"
#include "kernels/pack.h"
#include "model/model.h"

namespace gptbigcode {
namespace {

// A model and the arrays its weights point into.
class PyModel {
 public:
  PyModel(const py::dict& tensors, const ModelConfig& config, int num_threads, int prefill_threads, const std::string& isa)
      : tensors_(py::reinterpret_steal<py::dict>(PyDict_Copy(tensors.ptr()))) {
    std::unordered_map<std::string, TensorView> views;
    for (const auto& [key, value] : tensors_) {
      const auto name = key.cast<std::string>();
      require(py::isinstance<py::array>(value), "tensor " + name + " is not an array");
      const auto array = py::reinterpret_borrow<py::array>(value);
      require((array.flags() & py::array::c_style) != 0, "tensor " + name + " is not contiguous");
      require(reinterpret_cast<uintptr_t>(array.data()) % static_cast<size_t>(array.itemsize()) == 0,
              "tensor " + name + " is not aligned");
      views[name] = {static_cast<const std::byte*>(array.data()), std::vector<int64_t>(array.shape(), array.shape() + array.ndim()),
                     array.dtype().kind(), static_cast<int>(array.itemsize())};
    }
    const Kernels& kernels = select_kernels(isa.c_str());
    const int threads = resolve_num_threads(num_threads);
    const int for_prefill = prefill_threads == 0 ? threads : resolve_num_threads(prefill_threads);
    const py::gil_scoped_release unlocked;
    model_ = std::make_shared<Model>(
        config,
        [&](const std::string& name) -> const TensorView* {
          const auto found = views.find(name);
          return found == views.end() ? nullptr : &found->second;
        },
        kernels, threads, for_prefill);
  }
  ~PyModel() {  // NOLINT(bugprone-exception-escape): pybind11 throws only if Python's own state is broken
    const py::gil_scoped_release unlocked;  // joins the threads
    model_.reset();
  }
  PyModel(const PyModel&) = delete;
  PyModel& operator=(const PyModel&) = delete;

  Model& operator*() const { return *model_; }
  Model* operator->() const { return model_.get(); }

 private:
  py::dict tensors_;  // a copy of the dictionary: the caller may change theirs
  std::shared_ptr<Model> model_;
};

// A cache and the model it belongs to.
struct PyCache {
  std::shared_ptr<PyModel> model;
  KVCache cache;
};

py::object forward(PyModel& model, const std::vector<PyCache*>& caches, const std::vector<IntArray>& tokens,
                   const std::vector<int64_t>& logits_to_keep, bool hidden_states) {
  require(caches.size() == tokens.size() && caches.size() == logits_to_keep.size(),
          "caches, tokens and logits_to_keep must have the same length");
  std::vector<Run> runs;
  int64_t rows = 0, n_tokens = 0;
  for (size_t i = 0; i < caches.size(); ++i) {
    require(caches[i] != nullptr && caches[i]->model.get() == &model,
            "sequence " + std::to_string(i) + ": the cache belongs to another model");
    require(tokens[i].ndim() == 1, "sequence " + std::to_string(i) + ": tokens must be a vector");
    runs.push_back({&caches[i]->cache, tokens[i].data(), tokens[i].size(), logits_to_keep[i]});
    require(logits_to_keep[i] >= 0 && logits_to_keep[i] <= tokens[i].size(),
            "sequence " + std::to_string(i) + ": logits_to_keep is " + std::to_string(logits_to_keep[i]) + ", outside 0.." +
                std::to_string(tokens[i].size()));
    rows += logits_to_keep[i];
    n_tokens += tokens[i].size();
  }
  const ModelConfig& config = model->config();
  FloatArray logits({rows, config.vocab_size}), states;
  Outputs outputs{.logits = logits.mutable_data()};
  if (hidden_states) {
    states = FloatArray({config.n_layer + 1, n_tokens, config.n_embd});
    outputs.hidden_states = states.mutable_data();
  }
  try {
    const py::gil_scoped_release unlocked;
    model->forward(runs, outputs, [] {
      const py::gil_scoped_acquire locked;
      return PyErr_CheckSignals() != 0;  // Ctrl-C, or any handler that raises
    });
  } catch (const Stopped&) {
    throw py::error_already_set();
  }
  if (hidden_states) return py::make_tuple(logits, states);
  return std::move(logits);
}

}  // namespace

void register_model(py::module_& module) {
  module.def(
      "kv_bytes_per_token",
      [](const std::string& kv_dtype, int64_t n_layer, int64_t n_kv_head, int64_t head_dim) {
        require(n_layer > 0 && n_kv_head > 0 && head_dim > 0, "n_layer, n_kv_head and head_dim must be positive");
        return KVLayout{n_layer, n_kv_head, head_dim, parse_kv_dtype(kv_dtype)}.block_size() / kKvBlock;
      },
      py::arg("kv_dtype"), py::arg("n_layer"), py::arg("n_kv_head"), py::arg("head_dim"));
  py::class_<PyModel, std::shared_ptr<PyModel>>(module, "Model")
      .def(py::init([](const py::dict& tensors, const std::string& dtype, int64_t vocab_size, int64_t n_positions, int64_t n_embd,
                       int64_t n_layer, int64_t n_head, int64_t n_kv_head, int64_t n_inner, const std::string& activation,
                       float layer_norm_epsilon, float attention_scale, const std::string& kv_dtype, int num_threads,
                       int prefill_threads, const std::string& isa) {
             const ModelConfig config{
                 .vocab_size = vocab_size,
                 .n_positions = n_positions,
                 .n_embd = n_embd,
                 .n_layer = n_layer,
                 .n_head = n_head,
                 .n_kv_head = n_kv_head,
                 .n_inner = n_inner,
                 .activation = parse_activation(activation),
                 .layer_norm_epsilon = layer_norm_epsilon,
                 .attention_scale = attention_scale,
                 .dtype = parse_dtype(dtype),
                 .kv_dtype = parse_kv_dtype(kv_dtype),
             };
             return std::make_shared<PyModel>(tensors, config, num_threads, prefill_threads, isa);
           }),
           py::arg("tensors"), py::kw_only(), py::arg("dtype"), py::arg("vocab_size"), py::arg("n_positions"), py::arg("n_embd"),
           py::arg("n_layer"), py::arg("n_head"), py::arg("n_kv_head"), py::arg("n_inner"), py::arg("activation"),
           py::arg("layer_norm_epsilon"), py::arg("attention_scale"), py::arg("kv_dtype"), py::arg("num_threads") = 0,
           py::arg("prefill_threads") = 0, py::arg("isa") = "")
      .def_property_readonly("isa", [](const PyModel& model) { return std::string(model->kernels().name); })
      .def_property_readonly("num_threads", [](const PyModel& model) { return model->num_threads(); })
      .def_property_readonly("prefill_threads", [](const PyModel& model) { return model->prefill_threads(); })
      .def_property_readonly("kv_dtype", [](const PyModel& model) { return std::string(kv_dtype_name(model->config().kv_dtype)); })
      .def_property_readonly("kv_bytes_per_token", [](const PyModel& model) { return model->kv_layout().block_size() / kKvBlock; })
      .def("forward", &forward, py::arg("caches"), py::arg("tokens"), py::arg("logits_to_keep"),
           py::arg("hidden_states") = false);

  py::class_<PyCache>(module, "KVCache")
      .def(py::init([](const std::shared_ptr<PyModel>& model) { return PyCache{model, KVCache((*model)->kv_layout())}; }),
           py::arg("model"))
      .def("__len__", [](const PyCache& self) { return self.cache.size(); })
      .def_property_readonly("nbytes", [](const PyCache& self) { return self.cache.nbytes(); })
      .def("fork", [](const PyCache& self) { return PyCache{self.model, self.cache.fork()}; })
      .def(
          "truncate",
          [](PyCache& self, int64_t n_tokens) {
            require(n_tokens >= 0 && n_tokens <= self.cache.size(),
                    "cannot truncate a cache of " + std::to_string(self.cache.size()) + " tokens to " + std::to_string(n_tokens));
            self.cache.truncate(n_tokens);
          },
          py::arg("n_tokens"));
}

}  // namespace gptbigcode
