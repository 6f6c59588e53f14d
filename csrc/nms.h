#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/ne.h>
#include <c10/macros/Macros.h>

#include <limits>

namespace fcos_core {

// Returns true if the IoU of two xyxy boxes is strictly greater than `threshold`. The corner pixels belong to a box,
// so a side measures x2 - x1 + 1. A NaN coordinate makes the IoU NaN, and every comparison with NaN is false. On the
// CPU there is no branch, so that a loop over this function compiles to vector instructions.
template <typename T>
C10_HOST_DEVICE C10_ALWAYS_INLINE bool overlaps(const T* a, const T* b, T threshold) {
  const T left = a[0] > b[0] ? a[0] : b[0];
  const T top = a[1] > b[1] ? a[1] : b[1];
  const T right = a[2] < b[2] ? a[2] : b[2];
  const T bottom = a[3] < b[3] ? a[3] : b[3];
  T width = right - left + T(1);
  T height = bottom - top + T(1);
  width = width > T(0) ? width : T(0);
  height = height > T(0) ? height : T(0);
  const T intersection = width * height;
#ifdef __CUDA_ARCH__
  if (!(intersection > T(0))) {
    return false; // the IoU is 0 or NaN: skip the division
  }
#endif
  const T area_a = (a[2] - a[0] + T(1)) * (a[3] - a[1] + T(1));
  const T area_b = (b[2] - b[0] + T(1)) * (b[3] - b[1] + T(1));
  return intersection / (area_a + area_b - intersection) > threshold;
}

inline bool nms_sizes_fit(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups) {
  return boxes.dim() == 2 && boxes.size(1) == 4 && scores.dim() == 1 && scores.size(0) == boxes.size(0) &&
      groups.sizes() == scores.sizes();
}

// Returns (N,) bool, true where a slot holds a box. A score of -inf marks an empty slot.
inline at::Tensor is_filled(const at::Tensor& scores) {
  return at::ne(scores, -std::numeric_limits<double>::infinity());
}

// Returns the order (N,) int64 that puts each group into one segment, sorted by decreasing score, equal scores by
// increasing index. The second of the two stable sorts keeps the order of the first within a group. NaN scores come
// before all numbers, -inf after them.
inline at::Tensor order_by_group_and_score(const at::Tensor& scores, const at::Tensor& groups) {
  const at::Tensor by_score = at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor by_group =
      at::argsort(groups.index_select(0, by_score), /*stable=*/true, /*dim=*/0, false);
  return by_score.index_select(0, by_group);
}

} // namespace fcos_core
