#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>

namespace fcos_core {

inline void check_add_relu_inputs(
    const at::Tensor& x, const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& shortcut
) {
  TORCH_CHECK(
      x.dim() == 4 && x.is_floating_point(),
      "add_relu_: x must be floating point of shape (N, C, H, W), it is ",
      x.scalar_type(),
      " of ",
      x.sizes(),
      "."
  );
  TORCH_CHECK(
      !bias || (bias->dim() == 1 && bias->size(0) == x.size(1) && bias->scalar_type() == x.scalar_type() &&
                bias->device() == x.device()),
      "add_relu_: bias must be of x's dtype and device, and of shape (",
      x.size(1),
      ",)."
  );
  TORCH_CHECK(
      !shortcut || (shortcut->sizes() == x.sizes() && shortcut->scalar_type() == x.scalar_type() &&
                    shortcut->device() == x.device()),
      "add_relu_: shortcut must be of x's dtype, device and shape, ",
      x.sizes(),
      "."
  );
}

} // namespace fcos_core
