#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace fcos_core {

// The functions of fcos_core/layers check all arguments and name a wrong one. This check only keeps a direct call of
// torch.ops.fcos_core from accessing memory outside a tensor. (const_data_ptr<T> checks the dtype.)
inline void check_memory(bool safe, const char* operator_name) {
  TORCH_CHECK(
      safe,
      operator_name,
      ": the sizes or devices of the arguments do not fit together. Call the function in fcos_core.layers, which names "
      "the wrong argument."
  );
}

inline bool on_device(at::Device device, at::TensorList tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& t) { return t.device() == device; });
}

} // namespace fcos_core
