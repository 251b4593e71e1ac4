// One register function per noun; module.cpp calls them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

namespace gptbigcode {

namespace py = pybind11;

using FloatArray = py::array_t<float, py::array::c_style>;
using IntArray = py::array_t<int32_t, py::array::c_style>;

void register_errors();
void register_cpu(py::module_& module);
void register_kernels(py::module_& module);
void register_model(py::module_& module);
void register_sampler(py::module_& module);
void register_suffix_index(py::module_& module);
void register_timing(py::module_& module);

// Makes pickle, copy and deepcopy of a class's objects raise PicklingError. what: "a model"; instead: what to do.
void refuse_copies(const py::object& type, const std::string& what, const std::string& instead);

// A whole number of any size, brought into the range of int64_t. Throws std::invalid_argument.
int64_t saturated(const py::object& value, const std::string& name);

int resolve_num_threads(int requested);  // 0 = default; throws std::invalid_argument

}  // namespace gptbigcode
