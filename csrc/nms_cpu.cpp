#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "check_memory.h"
#include "nms.h"
#include "vectorized.h"

namespace fcos_core {
namespace {

// Coordinates of boxes, each contiguous, so that vector instructions compare one box with many.
template <typename T>
struct Columns {
  const T *x1, *y1, *x2, *y2;
};

// Clears `alive` of the boxes in [first, last) that overlap box i.
template <typename T, typename Flag>
C10_ALWAYS_INLINE void suppress(
    const Columns<T>& boxes, int64_t i, int64_t first, int64_t last, T threshold, Flag* alive
) {
  const T box[4] = {boxes.x1[i], boxes.y1[i], boxes.x2[i], boxes.y2[i]};
  for (int64_t j = first; j < last; ++j) {
    const T other[4] = {boxes.x1[j], boxes.y1[j], boxes.x2[j], boxes.y2[j]};
    alive[j] = overlaps(box, other, threshold) ? Flag(0) : alive[j];
  }
}

FCOS_VECTORIZED void suppress_overlapping(
    const Columns<float>& boxes, int64_t i, int64_t first, int64_t last, float threshold, int32_t* alive
) {
  suppress(boxes, i, first, last, threshold, alive);
}

FCOS_VECTORIZED void suppress_overlapping(
    const Columns<double>& boxes, int64_t i, int64_t first, int64_t last, double threshold, int32_t* alive
) {
  suppress(boxes, i, first, last, threshold, alive);
}

at::Tensor nms_mask_cpu(
    const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups, double iou_threshold
) {
  check_memory(nms_sizes_fit(boxes, scores, groups), "nms_mask");
  const int64_t n = boxes.size(0);
  at::Tensor keep = at::empty({n}, boxes.options().dtype(at::kBool));
  const at::Tensor order = order_by_group_and_score(scores, groups);
  const at::Tensor columns = boxes.t().index_select(1, order).contiguous();
  const at::Tensor sorted_groups = groups.index_select(0, order);
  const at::Tensor filled = is_filled(scores.index_select(0, order));

  const int64_t* group = sorted_groups.const_data_ptr<int64_t>();
  std::vector<int64_t> bounds; // segment s is [bounds[s], bounds[s + 1])
  for (int64_t i = 0; i < n; ++i) {
    if (i == 0 || group[i] != group[i - 1]) {
      bounds.push_back(i);
    }
  }
  bounds.push_back(n);

  const bool* is_box = filled.const_data_ptr<bool>();
  std::vector<int32_t> alive(is_box, is_box + n);
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "nms_mask_cpu", [&] {
    const scalar_t* column = columns.const_data_ptr<scalar_t>();
    const Columns<scalar_t> sorted{column, column + n, column + 2 * n, column + 3 * n};
    const auto threshold = static_cast<scalar_t>(iou_threshold);
    const auto segments = static_cast<int64_t>(bounds.size()) - 1;
    at::parallel_for(0, segments, /*grain_size=*/1, [&](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s) {
        // Empty slots come last in their segment.
        const int64_t end = std::find(is_box + bounds[s], is_box + bounds[s + 1], false) - is_box;
        for (int64_t i = bounds[s]; i < end; ++i) {
          if (alive[i]) {
            suppress_overlapping(sorted, i, i + 1, end, threshold, alive.data());
          }
        }
      }
    });
  });

  const int64_t* position = order.const_data_ptr<int64_t>();
  bool* kept = keep.mutable_data_ptr<bool>();
  for (int64_t i = 0; i < n; ++i) {
    kept[position[i]] = alive[i] != 0; // back to the input order
  }
  return keep;
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CPU, m) {
  m.impl("nms_mask", &nms_mask_cpu);
}

} // namespace fcos_core
