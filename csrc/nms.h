#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/ne.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <limits>

namespace fcos_core {

// Whether the IoU of two xyxy boxes is strictly greater than `threshold`. The two corners are pixels of the
// box, so a side measures x2 - x1 + 1. A NaN anywhere makes an area NaN, and no comparison with NaN holds.
// Without a branch on the CPU, so that a loop over it becomes vector instructions.
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
    return false; // as below, without the division
  }
#endif
  const T area_a = (a[2] - a[0] + T(1)) * (a[3] - a[1] + T(1));
  const T area_b = (b[2] - b[0] + T(1)) * (b[3] - b[1] + T(1));
  return intersection / (area_a + area_b - intersection) > threshold;
}

inline void check_nms_inputs(
    const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups, double iou_threshold
) {
  TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4,
      "nms_mask: boxes must have shape (N, 4), they have ",
      boxes.sizes(),
      "."
  );
  TORCH_CHECK(
      boxes.scalar_type() == at::kFloat || boxes.scalar_type() == at::kDouble,
      "nms_mask: boxes must be float32 or float64, they are ",
      boxes.scalar_type(),
      "."
  );
  TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == boxes.size(0),
      "nms_mask: scores must have shape (",
      boxes.size(0),
      ",), one per box, they have ",
      scores.sizes(),
      "."
  );
  TORCH_CHECK(
      scores.is_floating_point(),
      "nms_mask: scores must be floating point, they are ",
      scores.scalar_type(),
      "."
  );
  TORCH_CHECK(
      groups.dim() == 1 && groups.size(0) == boxes.size(0),
      "nms_mask: groups must have shape (",
      boxes.size(0),
      ",), one per box, they have ",
      groups.sizes(),
      "."
  );
  TORCH_CHECK(
      groups.scalar_type() == at::kLong,
      "nms_mask: groups must be int64, they are ",
      groups.scalar_type(),
      "."
  );
  TORCH_CHECK(
      scores.device() == boxes.device() && groups.device() == boxes.device(),
      "nms_mask: boxes, scores and groups must be on one device, they are on ",
      boxes.device(),
      ", ",
      scores.device(),
      " and ",
      groups.device(),
      "."
  );
  TORCH_CHECK(iou_threshold >= 0, "nms_mask: iou_threshold must be 0 or greater, it is ", iou_threshold, ".");
}

// (N,) bool: which slots hold a box. A score of -inf marks an empty one.
inline at::Tensor is_filled(const at::Tensor& scores) {
  return at::ne(scores, -std::numeric_limits<double>::infinity());
}

// The order (N,) int64 that lays each group out contiguously, and inside a group decreasing scores, ties to
// the lower index. Two stable sorts: the second keeps the first one's order among equals. A NaN score sorts
// before every number, -inf after them.
inline at::Tensor order_by_group_and_score(const at::Tensor& scores, const at::Tensor& groups) {
  const at::Tensor by_score = at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor by_group =
      at::argsort(groups.index_select(0, by_score), /*stable=*/true, /*dim=*/0, false);
  return by_score.index_select(0, by_group);
}

} // namespace fcos_core
