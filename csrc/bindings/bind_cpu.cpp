#include "base/error.h"
#include "bindings/bindings.h"
#include "cpu/features.h"
#include "cpu/quota.h"
#include "cpu/topology.h"
#include "kernels/kernels.h"

namespace gptbigcode {

int resolve_num_threads(int requested) {
  constexpr int kMaxThreads = 1024;
  require(requested >= 0 && requested <= kMaxThreads, "num_threads is ", requested, ", outside 0..1024");
  return requested > 0 ? requested : default_num_threads();
}

void register_cpu(py::module_& module) {
  module.def("cpu_features", [] { return feature_names(cpu_features()); });
  module.def("kernel_names", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : all_kernels()) names.emplace_back(kernels->name);
    return names;
  });
  module.def("supported_kernel_names", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : all_kernels()) {
      if (supported(*kernels)) names.emplace_back(kernels->name);
    }
    return names;
  });
  module.def(
      "select_kernel", [](const std::string& name) { return std::string(select_kernels(name.c_str()).name); },
      py::arg("name") = "");
  module.def("default_num_threads", &default_num_threads);
  module.def("cpu_quota", &cpu_quota, py::arg("root") = "");
}

}  // namespace gptbigcode
