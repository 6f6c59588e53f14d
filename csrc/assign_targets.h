#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>

#include <optional>

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

// The middle of a box.
template <typename T>
struct Centre {
  T x, y;

  C10_HOST_DEVICE static Centre of(const T* box) {
    return {(box[0] + box[2]) / T(2), (box[1] + box[3]) / T(2)};
  }

  // Returns true if the location lies strictly inside the square whose sides are `radius` away from the centre.
  C10_HOST_DEVICE bool is_near(T location_x, T location_y, T radius) const {
    return (location_x > x - radius) & (location_x < x + radius) & (location_y > y - radius) &
        (location_y < y + radius);
  }
};

// Returns the area in pixels of a box that is x2 - x1 + edge wide: edge is 1 if corner pixels are included, else 0.
template <typename T>
C10_HOST_DEVICE inline T area_of(const T* box, T edge) {
  return (box[2] - box[0] + edge) * (box[3] - box[1] + edge);
}

inline bool assign_targets_sizes_fit(
    const at::Tensor& locations,
    const at::Tensor& ranges,
    const at::Tensor& boxes,
    const at::Tensor& labels,
    const at::Tensor& offsets,
    const std::optional<at::Tensor>& radii
) {
  return locations.dim() == 2 && locations.size(1) == 2 && ranges.sizes() == locations.sizes() && boxes.dim() == 2 &&
      boxes.size(1) == 4 && labels.dim() == 1 && labels.size(0) == boxes.size(0) && offsets.dim() == 1 &&
      offsets.size(0) > 0 && (!radii || (radii->dim() == 1 && radii->size(0) == locations.size(0)));
}

} // namespace fcos_core
