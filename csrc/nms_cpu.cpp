#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include <cstdint>
#include <vector>

#include "nms.h"

namespace fcos_core {
namespace {

at::Tensor nms_mask_cpu(
    const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups, double iou_threshold
) {
  check_nms_inputs(boxes, scores, groups, iou_threshold);
  const int64_t n = boxes.size(0);
  at::Tensor keep = at::ones({n}, boxes.options().dtype(at::kBool));
  if (n == 0) {
    return keep;
  }
  const at::Tensor order = order_by_group_and_score(scores, groups);
  const at::Tensor sorted_boxes = boxes.index_select(0, order);
  const at::Tensor sorted_groups = groups.index_select(0, order);

  const int64_t* group = sorted_groups.const_data_ptr<int64_t>();
  std::vector<int64_t> bounds; // segment s is [bounds[s], bounds[s + 1])
  for (int64_t i = 0; i < n; ++i) {
    if (i == 0 || group[i] != group[i - 1]) {
      bounds.push_back(i);
    }
  }
  bounds.push_back(n);

  const int64_t* position = order.const_data_ptr<int64_t>();
  bool* alive = keep.mutable_data_ptr<bool>();
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "nms_mask_cpu", [&] {
    const scalar_t* box = sorted_boxes.const_data_ptr<scalar_t>();
    const auto threshold = static_cast<scalar_t>(iou_threshold);
    const auto segments = static_cast<int64_t>(bounds.size()) - 1;
    at::parallel_for(0, segments, /*grain_size=*/1, [&](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s) {
        for (int64_t i = bounds[s]; i < bounds[s + 1]; ++i) {
          if (!alive[position[i]]) {
            continue;
          }
          for (int64_t j = i + 1; j < bounds[s + 1]; ++j) {
            if (alive[position[j]] && overlaps(box + 4 * i, box + 4 * j, threshold)) {
              alive[position[j]] = false;
            }
          }
        }
      }
    });
  });
  return keep;
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CPU, m) {
  m.impl("nms_mask", &nms_mask_cpu);
}

} // namespace fcos_core
