#include <limits>
#include <utility>

#include "base/error.h"
#include "bindings/bindings.h"

namespace gptbigcode {
namespace {

void set_error(const char* name, const std::string& message) {
  py::set_error(py::module_::import("gptbigcode_cpu.errors").attr(name), message.c_str());
}

}  // namespace

void register_errors() {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      std::rethrow_exception(std::move(thrown));
    } catch (const ForkError& error) {
      set_error("ForkError", error.what());
    } catch (const Stopped& error) {
      set_error("StoppedError", error.what());
    } catch (const ThreadLimitError& error) {
      set_error("ThreadLimitError", error.what());
    } catch (const std::invalid_argument& error) {
      set_error("InputError", error.what());
    }
  });
}

void refuse_copies(const py::object& type, const std::string& what, const std::string& instead) {
  const std::string message = what + " cannot be pickled or copied: " + instead;
  type.attr("__reduce_ex__") = py::cpp_function(
      [message](const py::object&, const py::object&) -> py::object {
        set_error("PicklingError", message);
        throw py::error_already_set();
      },
      py::name("__reduce_ex__"), py::is_method(type));
}

int64_t saturated(const py::object& value, const std::string& name) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) {
    PyErr_Clear();
    throw std::invalid_argument(name + " must be a whole number");
  }
  int overflow = 0;
  const long long result = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  static_assert(sizeof(result) == sizeof(int64_t));
  if (overflow == 0) return result;
  return overflow > 0 ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int64_t>::min();
}

}  // namespace gptbigcode
