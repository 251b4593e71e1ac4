#include <memory>
#include <optional>
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
      require(py::isinstance<py::array>(value), "tensor ", name, " is not an array");
      const auto array = py::reinterpret_borrow<py::array>(value);
      require((array.flags() & py::array::c_style) != 0, "tensor ", name, " is not contiguous");
      require(reinterpret_cast<uintptr_t>(array.data()) % static_cast<size_t>(array.itemsize()) == 0, "tensor ", name,
              " is not aligned");
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
        kernels, threads, for_prefill, num_threads == 0 && prefill_threads == 0);
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

// What a sequence's new tokens are given as, converted where numpy does so without loss. The rest says which sequence, and what.
template <class Array>
Array to_array(const py::object& values, const char* type, int64_t ndim, const auto&... what) {
  auto array = Array::ensure(values);
  require(array && array.ndim() == ndim, what..., " must be ", type);
  return array;
}

py::object forward(PyModel& model, const std::vector<PyCache*>& caches, const std::vector<py::object>& tokens,
                   const std::vector<int64_t>& logits_to_keep, bool hidden_states, bool last_hidden_state, bool attentions,
                   const std::optional<std::vector<py::object>>& position_ids, const StopFlag* stop) {
  const size_t count = caches.size();
  require(count == tokens.size() && count == logits_to_keep.size() && (!position_ids || count == position_ids->size()),
          "caches, tokens, logits_to_keep and position_ids must have the same length");
  const ModelConfig& config = model->config();
  std::vector<Run> runs;
  std::vector<py::object> owners;  // of the arrays that runs point into
  std::vector<FloatArray> attention_arrays;
  int64_t rows = 0, n_tokens = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto require_here = [i](bool condition, const auto&... message) { require(condition, "sequence ", i, ": ", message...); };
    require_here(caches[i] != nullptr && caches[i]->model.get() == &model, "the cache belongs to another model");
    Run run{.cache = &caches[i]->cache, .tokens = nullptr, .n_tokens = 0, .logits_to_keep = logits_to_keep[i]};
    if (py::isinstance<py::array>(tokens[i]) && py::reinterpret_borrow<py::array>(tokens[i]).ndim() == 2) {
      const auto embeddings = to_array<FloatArray>(tokens[i], "a float32 matrix", 2, "sequence ", i, ": embeddings");
      require_here(embeddings.shape(1) == config.n_embd, "embeddings must have n_embd columns");
      run.embeddings = embeddings.data();
      run.n_tokens = embeddings.shape(0);
      owners.push_back(embeddings);
    } else {
      const auto ids = to_array<IntArray>(tokens[i], "an int32 vector", 1, "sequence ", i, ": tokens");
      run.tokens = ids.data();
      run.n_tokens = ids.size();
      owners.push_back(ids);
    }
    if (position_ids) {
      const auto ids = to_array<IntArray>((*position_ids)[i], "an int32 vector", 1, "sequence ", i, ": position_ids");
      require_here(ids.size() == run.n_tokens, "position_ids and tokens must have the same length");
      run.position_ids = ids.data();
      owners.push_back(ids);
    }
    require_here(run.logits_to_keep >= 0 && run.logits_to_keep <= run.n_tokens, "logits_to_keep is ", run.logits_to_keep,
                 ", outside 0..", run.n_tokens);
    if (attentions) {
      FloatArray array({config.n_layer, config.n_head, run.n_tokens, run.cache->size() + run.n_tokens});
      run.attentions = array.mutable_data();
      attention_arrays.push_back(array);
    }
    rows += run.logits_to_keep;
    n_tokens += run.n_tokens;
    runs.push_back(run);
  }
  std::vector<py::object> result;
  const auto add_array = [&result](std::vector<int64_t> shape) {
    FloatArray array(std::move(shape));
    result.push_back(array);
    return array.mutable_data();
  };
  Outputs outputs{.logits = add_array({rows, config.vocab_size})};
  if (hidden_states) outputs.hidden_states = add_array({config.n_layer + 1, n_tokens, config.n_embd});
  if (last_hidden_state) outputs.last_hidden_state = add_array({n_tokens, config.n_embd});
  if (attentions) result.push_back(py::cast(attention_arrays));
  try {
    const py::gil_scoped_release unlocked;
    model->forward(runs, outputs, {.flag = stop, .ask = [] {
                                     const py::gil_scoped_acquire locked;
                                     return PyErr_CheckSignals() != 0;  // Ctrl-C, or any handler that raises
                                   }});
  } catch (const Stopped&) {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    throw;
  }
  if (result.size() == 1) return result[0];
  return py::tuple(py::cast(result));
}

FloatArray embed(PyModel& model, const IntArray& tokens) {
  const ModelConfig& config = model->config();
  require(tokens.ndim() == 1, "tokens must be a vector");
  FloatArray out({static_cast<int64_t>(tokens.size()), config.n_embd});
  for (int64_t t = 0; t < tokens.size(); ++t) {
    const int32_t token = tokens.data()[t];
    require(token >= 0 && token < config.vocab_size, "token id ", token, " at index ", t, " is outside the vocabulary of ",
            config.vocab_size);
    model->embed_token(token, out.mutable_data() + t * config.n_embd);
  }
  return out;
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
  py::class_<PyModel, std::shared_ptr<PyModel>> model_type(module, "Model");
  refuse_copies(model_type, "a model",
                "its weights are mapped from a file, and its threads belong to this process; pass the name or path on, and open it "
                "there with from_pretrained");
  model_type
      .def(
          py::init([](const py::dict& tensors, const std::string& dtype, const std::unordered_map<std::string, std::string>& dtypes,
                      int64_t vocab_size, int64_t n_positions, int64_t n_embd, int64_t n_layer, int64_t n_head, int64_t n_kv_head,
                      int64_t n_inner, const std::string& activation, float layer_norm_epsilon, float attention_scale,
                      const std::string& kv_dtype, int num_threads, int prefill_threads, const std::string& isa) {
            std::unordered_map<std::string, DType> parsed;
            for (const auto& [name, value] : dtypes) parsed[name] = parse_dtype(value);
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
                .dtypes = std::move(parsed),
                .kv_dtype = parse_kv_dtype(kv_dtype),
            };
            return std::make_shared<PyModel>(tensors, config, num_threads, prefill_threads, isa);
          }),
          py::arg("tensors"), py::kw_only(), py::arg("dtype"), py::arg("dtypes"), py::arg("vocab_size"), py::arg("n_positions"),
          py::arg("n_embd"), py::arg("n_layer"), py::arg("n_head"), py::arg("n_kv_head"), py::arg("n_inner"), py::arg("activation"),
          py::arg("layer_norm_epsilon"), py::arg("attention_scale"), py::arg("kv_dtype"), py::arg("num_threads") = 0,
          py::arg("prefill_threads") = 0, py::arg("isa") = "")
      .def_property_readonly("isa", [](const PyModel& model) { return std::string(model->kernels().name); })
      .def_property_readonly("num_threads", [](const PyModel& model) { return model->num_threads(); })
      .def_property_readonly("prefill_threads", [](const PyModel& model) { return model->prefill_threads(); })
      .def_property_readonly("kv_dtype", [](const PyModel& model) { return std::string(kv_dtype_name(model->config().kv_dtype)); })
      .def_property_readonly("kv_bytes_per_token", [](const PyModel& model) { return model->kv_layout().block_size() / kKvBlock; })
      .def(
          "kv_bytes",
          [](const PyModel& model, int64_t n_tokens) {
            return (n_tokens + kKvBlock - 1) / kKvBlock * model->kv_layout().block_size();
          },
          py::arg("n_tokens"))
      .def("forward", &forward, py::arg("caches"), py::arg("tokens"), py::arg("logits_to_keep"), py::arg("hidden_states") = false,
           py::kw_only(), py::arg("last_hidden_state") = false, py::arg("attentions") = false, py::arg("position_ids") = py::none(),
           py::arg("stop") = py::none())
      .def("embed", &embed, py::arg("tokens"))
      .def("start_profile", [](const PyModel& model) { model->start_profile(); })
      .def("stop_profile", [](const PyModel& model) {
        py::list times;
        for (const PhaseTime& time : model->stop_profile()) times.append(py::make_tuple(time.name, time.seconds, time.busy));
        return times;
      });

  py::class_<StopFlag> flag_type(module, "StopFlag");
  refuse_copies(flag_type, "a stop flag", "hand on the flag itself, within this process");
  flag_type.def(py::init<>())
      .def("set", &StopFlag::set)
      .def("clear", &StopFlag::clear)
      .def_property_readonly("is_set", &StopFlag::is_set);

  py::class_<TeamSize>(module, "TeamSize")
      .def(py::init([](int most) {
             require(most >= 1, "most must be at least 1");
             return TeamSize(most);
           }),
           py::arg("most"))
      .def_property_readonly("threads", &TeamSize::threads)
      .def("report", &TeamSize::report, py::arg("work"), py::arg("seconds"), py::arg("switches"));

  py::class_<PyCache> cache_type(module, "KVCache");
  refuse_copies(cache_type, "a KV cache",
                "it belongs to its model; DynamicCache.copy() shares it within the process, and another one runs the tokens again");
  cache_type
      .def(py::init([](const std::shared_ptr<PyModel>& model) { return PyCache{model, KVCache((*model)->kv_layout())}; }),
           py::arg("model"))
      .def("__len__", [](const PyCache& self) { return self.cache.size(); })
      .def_property_readonly("nbytes", [](const PyCache& self) { return self.cache.nbytes(); })
      .def("fork", [](const PyCache& self) { return PyCache{self.model, self.cache.fork()}; })
      .def(
          "truncate",
          [](PyCache& self, int64_t n_tokens) {
            require(n_tokens >= 0 && n_tokens <= self.cache.size(), "cannot truncate a cache of ", self.cache.size(), " tokens to ",
                    n_tokens);
            self.cache.truncate(n_tokens);
          },
          py::arg("n_tokens"));
}

}  // namespace gptbigcode
