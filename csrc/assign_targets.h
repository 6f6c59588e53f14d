#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <cstdint>

namespace fcos_core {

// Distances from a location to the four sides of a box, in the order left, top, right, bottom.
template <typename T>
struct alignas(16) Sides {
  T left, top, right, bottom;

  C10_HOST_DEVICE static Sides of(T x, T y, const T* box) {
    return {x - box[0], y - box[1], box[2] - x, box[3] - y};
  }

  // Whether the location lies strictly inside the box and its largest distance in [lowest, highest]. Written so
  // that a NaN is outside, and without a branch.
  C10_HOST_DEVICE bool belongs(T lowest, T highest) const {
    const T horizontal = left > right ? left : right;
    const T vertical = top > bottom ? top : bottom;
    const T largest = horizontal > vertical ? horizontal : vertical;
    return (left > T(0)) & (top > T(0)) & (right > T(0)) & (bottom > T(0)) & (largest >= lowest) &
        (largest <= highest);
  }
};

// In pixels, the corner pixels included.
template <typename T>
C10_HOST_DEVICE inline T area_of(const T* box) {
  return (box[2] - box[0] + T(1)) * (box[3] - box[1] + T(1));
}

inline void check_assign_targets_inputs(
    const at::Tensor& locations,
    const at::Tensor& ranges,
    const at::Tensor& boxes,
    const at::Tensor& labels,
    const at::Tensor& offsets
) {
  TORCH_CHECK(
      locations.dim() == 2 && locations.size(1) == 2,
      "assign_targets: locations must have shape (L, 2), they have ",
      locations.sizes(),
      "."
  );
  TORCH_CHECK(
      locations.scalar_type() == at::kFloat || locations.scalar_type() == at::kDouble,
      "assign_targets: locations must be float32 or float64, they are ",
      locations.scalar_type(),
      "."
  );
  TORCH_CHECK(
      ranges.sizes() == locations.sizes(),
      "assign_targets: ranges must have the shape of locations, ",
      locations.sizes(),
      ", they have ",
      ranges.sizes(),
      "."
  );
  TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4,
      "assign_targets: boxes must have shape (M, 4), they have ",
      boxes.sizes(),
      "."
  );
  TORCH_CHECK(
      ranges.scalar_type() == locations.scalar_type() && boxes.scalar_type() == locations.scalar_type(),
      "assign_targets: locations, ranges and boxes must be of one dtype, they are ",
      locations.scalar_type(),
      ", ",
      ranges.scalar_type(),
      " and ",
      boxes.scalar_type(),
      "."
  );
  TORCH_CHECK(
      labels.dim() == 1 && labels.size(0) == boxes.size(0) && labels.scalar_type() == at::kLong,
      "assign_targets: labels must be int64 of shape (",
      boxes.size(0),
      ",), one per box, they are ",
      labels.scalar_type(),
      " of ",
      labels.sizes(),
      "."
  );
  TORCH_CHECK(
      offsets.dim() == 1 && offsets.size(0) >= 1 && offsets.scalar_type() == at::kLong,
      "assign_targets: offsets must be int64 of shape (images + 1,), they are ",
      offsets.scalar_type(),
      " of ",
      offsets.sizes(),
      "."
  );
  for (const at::Tensor& tensor : {ranges, boxes, labels, offsets}) {
    TORCH_CHECK(
        tensor.device() == locations.device(),
        "assign_targets: all tensors must be on one device, they are on ",
        locations.device(),
        " and ",
        tensor.device(),
        "."
    );
  }
}

} // namespace fcos_core
