#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/kernel_runs.h"
#include "kernels/limits.h"
#include "kernels/pack.h"

namespace gptbigcode {
namespace {

py::array new_packed(DType dtype, const std::vector<int64_t>& shape) {
  switch (dtype) {
    case DType::kFloat32: return py::array_t<float>(shape);
    case DType::kBFloat16: return py::array_t<uint16_t>(shape);
    default: return py::array_t<uint8_t>(shape);
  }
}

void check_sizes(int64_t n, int64_t k) {
  constexpr int64_t kLimit = 1 << 24;
  require(n > 0 && n <= kLimit && k > 0 && k <= kLimit, "a weight of [", n, ", ", k, "] is not supported");
}

ErrorFeedback error_feedback(const std::optional<FloatArray>& feedback, DType dtype, int64_t k) {
  if (!feedback) return {};
  const int64_t padded_k = (k + kBlock - 1) / kBlock * kBlock;
  require(dtype == DType::kInt4 || dtype == DType::kInt6, "errors are fed back in int4 and int6 only");
  require(feedback->ndim() == 2 && feedback->shape(0) == padded_k && feedback->shape(1) > 0 && feedback->shape(1) % kBlock == 0,
          "feedback must be [", padded_k, ", a multiple of 128]");
  require(std::all_of(feedback->data(), feedback->data() + feedback->size(), [](float x) { return std::isfinite(x); }),
          "feedback must be finite");
  return {feedback->data(), feedback->shape(1), padded_k};
}

py::array pack_weight(const py::array& weight, const std::string& dtype_name, int num_threads, const std::string& isa,
                      const std::optional<FloatArray>& feedback) {
  const DType dtype = parse_dtype(dtype_name);
  require(weight.ndim() == 2 && (weight.flags() & py::array::c_style) != 0, "a weight must be a C-contiguous matrix");
  const int64_t n = weight.shape(0), k = weight.shape(1);
  check_sizes(n, k);
  const char kind = weight.dtype().kind();
  const auto itemsize = weight.dtype().itemsize();
  require((kind == 'f' && (itemsize == 4 || itemsize == 2)) || (kind == 'u' && itemsize == 2),
          "a weight must be float32, float16, or uint16 holding bfloat16");
  py::array out = new_packed(dtype, tile_shape(dtype, n, k));
  const PackTask task{
      .source = weight.data(),
      .source_type = kind == 'u'     ? SourceType::kBFloat16
                     : itemsize == 4 ? SourceType::kFloat32
                                     : SourceType::kFloat16,
      .n = n,
      .k = k,
      .dtype = dtype,
      .kernels = &select_kernels(isa.c_str()),
      .out = static_cast<std::byte*>(out.mutable_data()),
      .feedback = error_feedback(feedback, dtype, k),
  };
  const int threads = resolve_num_threads(num_threads);
  const py::gil_scoped_release unlocked;
  ThreadPool pool(threads, available_cpus());
  pack(task, pool);
  return out;
}

FloatArray unpack_weight(const py::array& packed, const std::string& dtype_name, int64_t n, int64_t k) {
  const DType dtype = parse_dtype(dtype_name);
  const std::byte* data = check_packed(packed, dtype, n, k);
  FloatArray out({n, k});
  float* values = out.mutable_data();
  const py::gil_scoped_release unlocked;
  for (int64_t row = 0; row < n; ++row) unpack_row(data, dtype, row, k, values + row * k);
  return out;
}

FloatArray linear(const py::array& packed, const std::string& dtype_name, int64_t n, const FloatArray& x,
                  const std::optional<FloatArray>& bias, const std::string& isa, int num_threads) {
  const DType dtype = parse_dtype(dtype_name);
  require(x.ndim() == 2 && x.shape(0) > 0, "x must be a matrix with at least one row");
  const int64_t m = x.shape(0), k = x.shape(1);
  const std::byte* weights = check_packed(packed, dtype, n, k);
  require(!bias || (bias->ndim() == 1 && bias->shape(0) == n), "the bias must have n elements");
  const Kernels& kernels = select_kernels(isa.c_str());
  FloatArray out({m, n});
  const Linear layer{dtype, weights, bias ? bias->data() : nullptr, n, k};
  const float* input = x.data();
  float* output = out.mutable_data();
  const int threads = resolve_num_threads(num_threads);
  const py::gil_scoped_release unlocked;
  LinearRun(kernels, layer, input, m, threads)(layer, output);
  return out;
}

FloatArray layer_norm(const FloatArray& x, const FloatArray& weight, const FloatArray& bias, float epsilon,
                      const std::string& isa) {
  require(x.ndim() == 2 && x.shape(1) > 0, "x must be a matrix");
  const int64_t k = x.shape(1);
  require(weight.ndim() == 1 && weight.shape(0) == k && bias.ndim() == 1 && bias.shape(0) == k,
          "weight and bias must have k elements");
  const Kernels& kernels = select_kernels(isa.c_str());
  FloatArray out({x.shape(0), k});
  for (int64_t row = 0; row < x.shape(0); ++row) {
    kernels.layer_norm(x.data() + row * k, k, weight.data(), bias.data(), epsilon, out.mutable_data() + row * k);
  }
  return out;
}

FloatArray attention(const FloatArray& qkv, int64_t n_kv_head, const std::string& kv_dtype, float scale, int64_t n_queries,
                     const std::optional<FloatArray>& bias, const std::string& isa, int num_threads) {
  const int64_t n_head = check_qkv(qkv, n_kv_head, n_queries), head_dim = qkv.shape(2);
  require(!bias || (bias->ndim() == 2 && bias->shape(0) == qkv.shape(1) && bias->shape(1) == head_dim),
          "bias must be [heads + 2 * n_kv_head, head_dim]");
  const KVLayout layout{.n_layer = 1, .n_kv_head = n_kv_head, .head_dim = head_dim, .dtype = parse_kv_dtype(kv_dtype)};
  const Kernels& kernels = select_kernels(isa.c_str());
  FloatArray out({n_queries, n_head, head_dim});
  const AttentionRun::Input input{.qkv = qkv.data(),
                                  .bias = bias ? bias->data() : nullptr,
                                  .tokens = qkv.shape(0),
                                  .n_head = n_head,
                                  .n_queries = n_queries,
                                  .scale = scale};
  float* output = out.mutable_data();
  const int threads = resolve_num_threads(num_threads);
  const py::gil_scoped_release unlocked;
  AttentionRun run(kernels, layout, input, threads);
  run.attend(0);
  run.finish(output);
  return out;
}

FloatArray activate(const std::string& name, const FloatArray& x, const std::string& isa) {
  const Activation activation = parse_activation(name);
  const Kernels& kernels = select_kernels(isa.c_str());
  FloatArray out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  if (x.size() > 0) std::memcpy(out.mutable_data(), x.data(), static_cast<size_t>(x.nbytes()));
  kernels.activate(activation, out.mutable_data(), x.size());
  return out;
}

float read(const FloatArray& x, int streams, const std::string& isa) {
  require(streams == 1 || streams == 2 || streams == 4 || streams == 8, "streams must be 1, 2, 4 or 8");
  return select_kernels(isa.c_str()).read(x.data(), x.size(), streams);
}

}  // namespace

const std::byte* check_packed(const py::array& packed, DType dtype, int64_t n, int64_t k) {
  check_sizes(n, k);
  const std::vector<int64_t> shape = tile_shape(dtype, n, k);
  require(packed.ndim() == static_cast<py::ssize_t>(shape.size()) && std::equal(shape.begin(), shape.end(), packed.shape()),
          "the packed weight has the wrong shape");
  require(py::isinstance(packed.dtype(), py::type::of(new_packed(dtype, {0, 0, 0}).dtype())) &&
              packed.dtype().equal(new_packed(dtype, {0, 0, 0}).dtype()) && (packed.flags() & py::array::c_style) != 0,
          "the packed weight has the wrong type or is not contiguous");
  return static_cast<const std::byte*>(packed.data());
}

void register_kernels(py::module_& module) {
  module.def(
      "tile_shape",
      [](const std::string& dtype, int64_t n, int64_t k) {
        check_sizes(n, k);
        return py::tuple(py::cast(tile_shape(parse_dtype(dtype), n, k)));
      },
      py::arg("dtype"), py::arg("n"), py::arg("k"));
  module.def("pack_weight", &pack_weight, py::arg("weight"), py::arg("dtype"), py::arg("num_threads") = 0, py::arg("isa") = "",
             py::arg("feedback") = py::none());
  module.def("unpack_weight", &unpack_weight, py::arg("packed"), py::arg("dtype"), py::arg("n"), py::arg("k"));
  module.def("linear", &linear, py::arg("packed"), py::arg("dtype"), py::arg("n"), py::arg("x"), py::arg("bias") = py::none(),
             py::arg("isa") = "", py::arg("num_threads") = 1);
  module.def("layer_norm", &layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("epsilon"), py::arg("isa") = "");
  module.def("attention", &attention, py::arg("qkv"), py::arg("n_kv_head"), py::arg("kv_dtype"), py::arg("scale"),
             py::arg("n_queries"), py::arg("bias") = py::none(), py::arg("isa") = "", py::arg("num_threads") = 1);
  module.def("activate", &activate, py::arg("name"), py::arg("x"), py::arg("isa") = "");
  module.def("activation_names", &activation_names);
  module.def("read", &read, py::arg("x"), py::arg("streams"), py::arg("isa") = "");
  module.def(
      "measure_read_bandwidth",
      [](const std::vector<py::array>& arrays, const std::string& isa, int num_threads) {
        const Kernels& kernels = select_kernels(isa.c_str());
        const int threads = resolve_num_threads(num_threads);
        std::vector<Memory> memory;
        for (const auto& array : arrays) {
          require((array.flags() & py::array::c_style) != 0 && reinterpret_cast<uintptr_t>(array.data()) % sizeof(float) == 0,
                  "the arrays must be contiguous and 4-byte aligned");
          memory.push_back({static_cast<const std::byte*>(array.data()), static_cast<size_t>(array.nbytes())});
        }
        require(std::any_of(memory.begin(), memory.end(), [](const Memory& m) { return m.nbytes > 0; }),
                "there is nothing to read");
        const py::gil_scoped_release unlocked;
        ThreadPool pool(threads, available_cpus());
        return read_bandwidth(kernels, pool, memory);
      },
      py::arg("arrays"), py::arg("isa") = "", py::arg("num_threads") = 0);
  module.def(
      "measure_int8_peak",
      [](const std::string& isa, int num_threads) {
        const Kernels& kernels = select_kernels(isa.c_str());
        const int threads = resolve_num_threads(num_threads);
        const py::gil_scoped_release unlocked;
        ThreadPool pool(threads, available_cpus());
        return int8_peak(kernels, pool);
      },
      py::arg("isa") = "", py::arg("num_threads") = 0);
}

}  // namespace gptbigcode
