#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/OpMathType.h>
#include <c10/util/Exception.h>

#include <cstdint>

namespace fcos_core {

inline void check_group_norm_relu_inputs(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups
) {
  TORCH_CHECK(
      x.dim() == 4 && x.is_floating_point(),
      "group_norm_relu: x must be floating point of shape (N, C, H, W), it is ",
      x.scalar_type(),
      " of ",
      x.sizes(),
      "."
  );
  TORCH_CHECK(
      groups > 0 && x.size(1) % groups == 0,
      "group_norm_relu: groups must divide the ",
      x.size(1),
      " channels, they are ",
      groups,
      "."
  );
  for (const at::Tensor& parameter : {weight, bias}) {
    TORCH_CHECK(
        parameter.dim() == 1 && parameter.size(0) == x.size(1) &&
            parameter.scalar_type() == at::toOpMathType(x.scalar_type()) && parameter.device() == x.device(),
        "group_norm_relu: weight and bias must be ",
        at::toOpMathType(x.scalar_type()),
        " of shape (",
        x.size(1),
        ",) on ",
        x.device(),
        ", one is ",
        parameter.scalar_type(),
        " of ",
        parameter.sizes(),
        " on ",
        parameter.device(),
        "."
    );
  }
}

} // namespace fcos_core
