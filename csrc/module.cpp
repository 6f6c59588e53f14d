// The empty Python module fcos_core._C, whose import registers the kernels of this library with PyTorch's dispatcher.
// fcos_core/layers holds the operators' schemas, argument checks, reference definitions and gradients.
#include <Python.h>

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr
  };
  return PyModule_Create(&module);
}
