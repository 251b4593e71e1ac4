#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/features.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

constexpr const Kernels* kList[] = {
#if defined(GPTBIGCODE_CPU_X86)
    &kAvx512AmxKernels, &kAvx512VnniKernels, &kAvxVnniKernels, &kAvx2Kernels,
#endif
    &kScalarKernels,
};

}  // namespace

KernelList all_kernels() { return {std::begin(kList), std::end(kList)}; }

bool supported(const Kernels& kernels) { return (kernels.required & ~cpu_features()) == 0; }

const Kernels& select_kernels(const char* requested) {
  std::string name = requested;
  if (name.empty()) {
    const char* variable = std::getenv("GPTBIGCODE_CPU_ISA");
    if (variable != nullptr) name = variable;
  }
  std::string known;
  for (const Kernels* kernels : all_kernels()) {
    if (name.empty()) {
      if (supported(*kernels)) return *kernels;
    } else if (name == kernels->name) {
      if (supported(*kernels)) return *kernels;
      std::string missing;
      for (const std::string& feature : feature_names(kernels->required & ~cpu_features())) missing += " " + feature;
      throw std::invalid_argument("kernel set '" + name + "' cannot run on this CPU, which lacks:" + missing);
    }
    known += (known.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("unknown kernel set '" + name + "'; this build has: " + known);
}

}  // namespace gptbigcode
