#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>

namespace fcos_core {

// Distances from a location to the four sides of a box, in the order left, top, right, bottom.
template <typename T>
struct alignas(16) Sides {
  T left, top, right, bottom;

  C10_HOST_DEVICE static Sides of(T x, T y, const T* box) {
    return {x - box[0], y - box[1], box[2] - x, box[3] - y};
  }

  // Returns true if the location lies strictly inside the box and its largest distance lies in [lowest, highest].
  // Every comparison with NaN is false, so a NaN counts as outside. There is no branch, so that a loop over this
  // function compiles to vector instructions.
  C10_HOST_DEVICE bool belongs(T lowest, T highest) const {
    const T horizontal = left > right ? left : right;
    const T vertical = top > bottom ? top : bottom;
    const T largest = horizontal > vertical ? horizontal : vertical;
    return (left > T(0)) & (top > T(0)) & (right > T(0)) & (bottom > T(0)) & (largest >= lowest) &
        (largest <= highest);
  }
};

// Returns the area in pixels, corner pixels included.
template <typename T>
C10_HOST_DEVICE inline T area_of(const T* box) {
  return (box[2] - box[0] + T(1)) * (box[3] - box[1] + T(1));
}

inline bool assign_targets_sizes_fit(
    const at::Tensor& locations,
    const at::Tensor& ranges,
    const at::Tensor& boxes,
    const at::Tensor& labels,
    const at::Tensor& offsets
) {
  return locations.dim() == 2 && locations.size(1) == 2 && ranges.sizes() == locations.sizes() && boxes.dim() == 2 &&
      boxes.size(1) == 4 && labels.dim() == 1 && labels.size(0) == boxes.size(0) && offsets.dim() == 1 &&
      offsets.size(0) > 0;
}

} // namespace fcos_core
