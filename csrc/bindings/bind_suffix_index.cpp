#include "base/error.h"
#include "bindings/bindings.h"
#include "sampling/suffix_index.h"

namespace gptbigcode {

void register_suffix_index(py::module_& module) {
  py::class_<SuffixIndex> index_type(module, "SuffixIndex");
  refuse_copies(index_type, "a suffix index", "make another one and extend it by the same tokens");
  index_type.def(py::init<>())
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
          [](SuffixIndex& self, const py::object& max_length) {
            const SuffixMatch found = self.match(saturated(max_length, "max_length"));
            return std::pair(found.length, found.end);
          },
          py::arg("max_length"));
}

}  // namespace gptbigcode
