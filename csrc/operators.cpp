// The schemas of the operators, and the empty Python module whose import loads them with their kernels.
// Shape functions, autograd and the pure PyTorch definitions are registered by
// fcos_core/layers/_operators.py.
#include <Python.h>
#include <torch/library.h>

TORCH_LIBRARY(fcos_core, m) {
  m.def("add_relu_(Tensor(a!) x, Tensor? bias, Tensor? shortcut, bool relu) -> ()");
  m.def("nms_mask(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold) -> Tensor");
  m.def(
      "assign_targets(Tensor locations, Tensor ranges, Tensor boxes, Tensor labels, Tensor offsets) -> (Tensor, "
      "Tensor)"
  );
  m.def(
      "group_norm_relu(Tensor x, Tensor weight, Tensor bias, int groups, float epsilon) -> (Tensor, Tensor, Tensor)"
  );
  m.def(
      "group_norm_relu_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd) -> "
      "(Tensor, Tensor, Tensor)"
  );
  m.def("sigmoid_focal_loss(Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor");
  m.def(
      "sigmoid_focal_loss_backward(Tensor grad, Tensor logits, Tensor targets, float gamma, float alpha) -> "
      "Tensor"
  );
  m.def(
      "sigmoid_focal_loss_sum(Tensor logits, Tensor targets, Tensor scale, float gamma, float alpha, bool "
      "with_grad) -> (Tensor, Tensor)"
  );
  m.def("scale_gradient_(Tensor(a!) gradient, Tensor factor) -> ()");
}

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr
  };
  return PyModule_Create(&module);
}
