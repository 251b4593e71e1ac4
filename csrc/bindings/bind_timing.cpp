#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/kernel_runs.h"
#include "kernels/pack.h"

namespace gptbigcode {
namespace {

// Something that can be repeated, and how long it takes. What it works on belongs to it.
class KernelTimer {
 public:
  explicit KernelTimer(std::function<void()> call) : call_(std::move(call)) {}

  std::vector<double> measure(double seconds) const {
    require(std::isfinite(seconds) && seconds >= 0 && seconds <= 3600, "seconds must be in 0..3600");
    using Clock = std::chrono::steady_clock;
    const auto since = [](Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); };
    const py::gil_scoped_release unlocked;
    const auto start = Clock::now();
    call_();
    const double first = since(start);
    // The first call finds cold caches. It counts only if there is no time for others.
    if (first >= seconds) return {first};
    // Reading the clock takes some 50 ns: short calls are timed together.
    constexpr double kShort = 20e-6;
    std::vector<double> passes;
    for (int64_t calls = 1; passes.empty() || since(start) < seconds;) {
      const auto pass = Clock::now();
      for (int64_t i = 0; i < calls; ++i) call_();
      const double taken = since(pass);
      if (taken < kShort) {
        calls *= 2;
      } else {
        passes.push_back(taken / static_cast<double>(calls));
      }
    }
    return passes;
  }

 private:
  std::function<void()> call_;
};

// A kernel's input and output, and the call itself. They do not move: a run points into them.
template <class Work, class... Arguments>
KernelTimer timer(Arguments&&... arguments) {
  auto work = std::make_shared<Work>(std::forward<Arguments>(arguments)...);
  return KernelTimer([work = std::move(work)] { work->call(); });
}

struct LinearWork {
  LinearWork(const Kernels& kernels, std::vector<py::array> stack, std::vector<Linear> views, FloatArray input, bool halves,
             int threads)
      : packed(std::move(stack)),
        x(std::move(input)),
        layers(std::move(views)),
        run(kernels, layers.front(), x.data(), x.shape(0), threads) {
    out.reserve(static_cast<size_t>(x.shape(0) * layers.front().n));
    if (halves) sum.reserve(static_cast<size_t>(x.shape(0) / 2 * layers.front().n));
  }
  void call() {
    run(layers[next], out.data(), sum.data());
    next = (next + 1) % layers.size();
  }

  const std::vector<py::array> packed;
  const FloatArray x;
  const std::vector<Linear> layers;
  size_t next = 0;
  AlignedBuffer<float> out, sum;
  LinearRun run;
};

KernelTimer time_linear(const std::vector<py::array>& packed, const std::string& dtype_name, int64_t n, const FloatArray& x,
                        bool halves, const std::string& isa, int num_threads) {
  const DType dtype = parse_dtype(dtype_name);
  require(!packed.empty(), "no packed weights");
  require(x.ndim() == 2 && x.shape(0) > 0, "x must be a matrix with at least one row");
  require(!halves || x.shape(0) % 2 == 0, "x must have an even number of rows if its halves are added");
  std::vector<Linear> layers;
  layers.reserve(packed.size());
  for (const py::array& weight : packed) {
    layers.push_back({.dtype = dtype, .weights = check_packed(weight, dtype, n, x.shape(1)), .n = n, .k = x.shape(1)});
  }
  return timer<LinearWork>(select_kernels(isa.c_str()), packed, std::move(layers), x, halves, resolve_num_threads(num_threads));
}

struct AttentionWork {
  AttentionWork(const Kernels& kernels, const KVLayout& layout, FloatArray input, int64_t n_head, int64_t n_queries,
                bool merge_only, int threads)
      : qkv(std::move(input)),
        layers(layout.n_layer),
        merge(merge_only),
        run(kernels, layout,
            {.qkv = qkv.data(),
             .bias = nullptr,
             .tokens = qkv.shape(0),
             .n_head = n_head,
             .n_queries = n_queries,
             .scale = 1.0f / std::sqrt(static_cast<float>(layout.head_dim))},
            threads) {
    out.reserve(static_cast<size_t>(n_queries * n_head * layout.head_dim));
    if (merge) run.attend(0);
  }
  void call() {
    if (merge) {  // what is merged grows with every call, by additions that no float overflows at
      run.finish(out.data());
    } else {
      run.attend(next);
      next = (next + 1) % layers;
    }
  }

  const FloatArray qkv;
  const int64_t layers;
  const bool merge;
  int64_t next = 0;
  AlignedBuffer<float> out;
  AttentionRun run;
};

KernelTimer time_attention(const FloatArray& qkv, int64_t n_kv_head, const std::string& kv_dtype, int64_t n_queries,
                           int64_t n_layer, bool merge, const std::string& isa, int num_threads) {
  const int64_t n_head = check_qkv(qkv, n_kv_head, n_queries);
  require(n_layer > 0, "n_layer must be positive");
  const KVLayout layout{.n_layer = n_layer, .n_kv_head = n_kv_head, .head_dim = qkv.shape(2), .dtype = parse_kv_dtype(kv_dtype)};
  return timer<AttentionWork>(select_kernels(isa.c_str()), layout, qkv, n_head, n_queries, merge, resolve_num_threads(num_threads));
}

struct RowsWork {
  enum class Kind { kLayerNorm, kQuantize, kActivate };
  RowsWork(const Kernels& set, Kind what, const FloatArray& input)
      : kernels(set), kind(what), m(input.shape(0)), k(input.shape(1)), weight(static_cast<size_t>(k), 1.0f) {
    const auto size = static_cast<size_t>(m * k);
    x.reserve(size);
    std::copy_n(input.data(), size, x.data());
    out.reserve(size);
    blocks.reserve(static_cast<size_t>((k + kBlock - 1) / kBlock * m));
  }
  void call() {
    constexpr float kEpsilon = 1e-5f;
    for (int64_t row = 0; row < m; ++row) {
      float* values = x.data() + row * k;
      switch (kind) {
        case Kind::kLayerNorm: kernels.layer_norm(values, k, weight.data(), weight.data(), kEpsilon, out.data() + row * k); break;
        case Kind::kQuantize: kernels.quantize(values, k, blocks.data() + row, m); break;
        case Kind::kActivate: kernels.activate(Activation::kGeluTanh, values, k); break;
      }
    }
  }

  const Kernels& kernels;
  const Kind kind;
  const int64_t m, k;
  const std::vector<float> weight;
  AlignedBuffer<float> x, out;
  AlignedBuffer<ActivationBlock> blocks;
};

KernelTimer time_rows(const std::string& kernel, const FloatArray& x, const std::string& isa) {
  require(kernel == "layer_norm" || kernel == "quantize" || kernel == "activate", "unknown kernel '", kernel,
          "'; layer_norm, quantize and activate work on rows");
  require(x.ndim() == 2 && x.size() > 0, "x must be a matrix with at least one row and column");
  using Kind = RowsWork::Kind;
  const Kind kind = kernel == "layer_norm" ? Kind::kLayerNorm : kernel == "quantize" ? Kind::kQuantize : Kind::kActivate;
  return timer<RowsWork>(select_kernels(isa.c_str()), kind, x);
}

}  // namespace

void register_timing(py::module_& module) {
  py::class_<KernelTimer>(module, "KernelTimer").def("measure", &KernelTimer::measure, py::arg("seconds"));
  module.def("time_linear", &time_linear, py::arg("packed"), py::arg("dtype"), py::arg("n"), py::arg("x"),
             py::arg("halves") = false, py::arg("isa") = "", py::arg("num_threads") = 1);
  module.def("time_attention", &time_attention, py::arg("qkv"), py::arg("n_kv_head"), py::arg("kv_dtype"), py::arg("n_queries"),
             py::arg("n_layer") = 1, py::arg("merge") = false, py::arg("isa") = "", py::arg("num_threads") = 1);
  module.def("time_rows", &time_rows, py::arg("kernel"), py::arg("x"), py::arg("isa") = "");
}

}  // namespace gptbigcode
