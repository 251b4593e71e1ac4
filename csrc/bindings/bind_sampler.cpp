#include <map>

#include "base/error.h"
#include "bindings/bindings.h"
#include "sampling/sampler.h"

namespace gptbigcode {
namespace {

uint64_t seed_of(const py::int_& value) {
  const uint64_t seed = PyLong_AsUnsignedLongLong(value.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw std::invalid_argument("seed is " + std::string(py::str(value)) + ", outside 0..2^64 - 1");
  }
  return seed;
}

}  // namespace

void register_sampler(py::module_& module) {
  py::class_<Sampler> sampler_type(module, "Sampler");
  refuse_copies(sampler_type, "a sampler", "make another one with the same options and seed");
  sampler_type
      .def(py::init([](double temperature, const py::object& top_k, double top_p, double min_p, double repetition_penalty,
                       const std::optional<std::map<int64_t, float>>& logit_bias, const py::int_& seed, const std::string& isa) {
             SamplerOptions options{
                 .temperature = temperature,
                 .top_k = saturated(top_k, "top_k"),
                 .top_p = top_p,
                 .min_p = min_p,
                 .repetition_penalty = repetition_penalty,
                 .logit_bias = {},
                 .seed = seed_of(seed),
             };
             if (logit_bias) options.logit_bias.assign(logit_bias->begin(), logit_bias->end());
             return Sampler(std::move(options), select_kernels(isa.c_str()));
           }),
           py::kw_only(), py::arg("temperature") = 0.0, py::arg("top_k") = 0, py::arg("top_p") = 1.0, py::arg("min_p") = 0.0,
           py::arg("repetition_penalty") = 1.0, py::arg("logit_bias") = py::none(), py::arg("seed") = 0, py::arg("isa") = "")
      .def(
          "sample",
          [](Sampler& self, const FloatArray& logits, const IntArray& context) {
            require(logits.ndim() == 1 && logits.size() > 0, "logits must be a vector");
            require(context.ndim() == 1, "context must be a vector");
            return self.sample(logits.data(), logits.size(), context.data(), context.size());
          },
          py::arg("logits"), py::arg("context"));
}

}  // namespace gptbigcode
