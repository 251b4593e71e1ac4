#include "bindings/bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled core of gptbigcode-cpu.";
  gptbigcode::register_errors();
  gptbigcode::register_cpu(module);
  gptbigcode::register_kernels(module);
  gptbigcode::register_model(module);
  gptbigcode::register_sampler(module);
  gptbigcode::register_suffix_index(module);
  gptbigcode::register_timing(module);
}
