#include "base/error.h"
#include "bindings/bindings.h"
#include "model/suffix_index.h"

namespace gptbigcode {

void register_suffix_index(py::module_& module) {
  py::class_<SuffixIndex>(module, "SuffixIndex")
      .def(py::init<>())
      .def("__len__", &SuffixIndex::size)
      .def(
          "extend",
          [](SuffixIndex& self, const IntArray& tokens) {
            require(tokens.ndim() == 1, "tokens must be a vector");
            self.extend(tokens.data(), tokens.size());
          },
          py::arg("tokens"))
      .def(
          "match",
          [](SuffixIndex& self, int64_t max_length) {
            const SuffixMatch found = self.match(max_length);
            return std::pair(found.length, found.end);
          },
          py::arg("max_length"));
}

}  // namespace gptbigcode
