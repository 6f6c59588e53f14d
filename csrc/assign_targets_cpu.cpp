#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>

#include "assign_targets.h"
#include "check_memory.h"
#include "vectorized.h"

namespace fcos_core {
namespace {

constexpr int64_t kBlock = 64; // neighbouring locations that are compared with a box together

// kBlock locations and the bounds of their coordinates and ranges. Places after the last location hold NaN, which lies
// in no box. Without radii there is no center sampling.
template <typename T>
struct Block {
  T x[kBlock], y[kBlock], lowest[kBlock], highest[kBlock], radius[kBlock];
  T left, top, right, bottom;
  T least_lowest, largest_highest;
  bool sampled;

  Block(const T* locations, const T* ranges, const T* radii, int64_t n) : sampled(radii != nullptr) {
    for (int64_t i = 0; i < kBlock; ++i) {
      x[i] = i < n ? locations[2 * i] : std::numeric_limits<T>::quiet_NaN();
      y[i] = i < n ? locations[2 * i + 1] : std::numeric_limits<T>::quiet_NaN();
      lowest[i] = ranges[2 * std::min(i, n - 1)];
      highest[i] = ranges[2 * std::min(i, n - 1) + 1];
      radius[i] = sampled ? radii[std::min(i, n - 1)] : T(0);
    }
    left = *std::min_element(x, x + n);
    right = *std::max_element(x, x + n);
    top = *std::min_element(y, y + n);
    bottom = *std::max_element(y, y + n);
    least_lowest = *std::min_element(lowest, lowest + n);
    largest_highest = *std::max_element(highest, highest + n);
  }

  // Returns true if no location of the block can belong to the box. Inside a box of side s, the larger of the two
  // opposite distances is at least s / 2 and at most s. Rounding preserves both bounds.
  bool excludes(const T* box) const {
    const T longer = std::max(box[2] - box[0], box[3] - box[1]);
    return box[0] >= right || box[2] <= left || box[1] >= bottom || box[3] <= top || longer < least_lowest ||
        longer / 2 > largest_highest;
  }
};

// Finds for each location of the block the box of least area among boxes [first, last) that it belongs to. Writes the
// box's index minus `first`, or -1 without such a box.
template <bool sampled, typename T, typename Index>
C10_ALWAYS_INLINE void choose(
    const Block<T>& block, const T* boxes, int64_t first, int64_t last, T edge, Index* chosen
) {
  T least[kBlock];
  std::fill(least, least + kBlock, std::numeric_limits<T>::infinity());
  std::fill(chosen, chosen + kBlock, Index(-1));
  for (int64_t box = first; box < last; ++box) {
    if (block.excludes(boxes + 4 * box)) {
      continue;
    }
    const T area = area_of(boxes + 4 * box, edge);
    const auto centre = Centre<T>::of(boxes + 4 * box);
    for (int64_t i = 0; i < kBlock; ++i) {
      const auto sides = Sides<T>::of(block.x[i], block.y[i], boxes + 4 * box);
      const bool near = !sampled || centre.is_near(block.x[i], block.y[i], block.radius[i]);
      const bool better = sides.belongs(block.lowest[i], block.highest[i]) & near & (area < least[i]);
      least[i] = better ? area : least[i];
      chosen[i] = better ? static_cast<Index>(box - first) : chosen[i];
    }
  }
}

template <typename T, typename Index>
C10_ALWAYS_INLINE void choose(
    const Block<T>& block, const T* boxes, int64_t first, int64_t last, T edge, Index* chosen
) {
  if (block.sampled) {
    choose<true>(block, boxes, first, last, edge, chosen);
  } else {
    choose<false>(block, boxes, first, last, edge, chosen);
  }
}

FCOS_VECTORIZED void choose_boxes(
    const Block<float>& block, const float* boxes, int64_t first, int64_t last, float edge, int32_t* chosen
) {
  choose(block, boxes, first, last, edge, chosen);
}

FCOS_VECTORIZED void choose_boxes(
    const Block<double>& block, const double* boxes, int64_t first, int64_t last, double edge, int32_t* chosen
) {
  choose(block, boxes, first, last, edge, chosen);
}

std::tuple<at::Tensor, at::Tensor> assign_targets_cpu(
    const at::Tensor& locations,
    const at::Tensor& ranges,
    const at::Tensor& boxes,
    const at::Tensor& labels,
    const at::Tensor& offsets,
    const std::optional<at::Tensor>& radii,
    bool continuous
) {
  check_memory(assign_targets_sizes_fit(locations, ranges, boxes, labels, offsets, radii), "assign_targets");
  const at::Tensor points = locations.contiguous(), bounds = ranges.contiguous(), corners = boxes.contiguous();
  const at::Tensor classes = labels.contiguous(), ends = offsets.contiguous();
  const at::Tensor half_sides = radii ? radii->contiguous() : at::Tensor();
  const int64_t num_images = offsets.size(0) - 1;
  const int64_t num_locations = locations.size(0);
  at::Tensor assigned = at::zeros({num_images, num_locations}, labels.options());
  at::Tensor distances = at::zeros({num_images, num_locations, 4}, boxes.options());

  const int64_t* label = classes.const_data_ptr<int64_t>();
  const int64_t* offset = ends.const_data_ptr<int64_t>();
  TORCH_CHECK(
      offset[0] == 0 && offset[num_images] == boxes.size(0) && std::is_sorted(offset, offset + num_images + 1),
      "assign_targets: offsets must not decrease and go from 0 to the number of boxes, ",
      boxes.size(0),
      "."
  );
  int64_t* out_label = assigned.mutable_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(locations.scalar_type(), "assign_targets_cpu", [&] {
    const scalar_t* location = points.const_data_ptr<scalar_t>();
    const scalar_t* range = bounds.const_data_ptr<scalar_t>();
    const scalar_t* radius = radii ? half_sides.const_data_ptr<scalar_t>() : nullptr;
    const scalar_t* box = corners.const_data_ptr<scalar_t>();
    auto* out_distance = reinterpret_cast<Sides<scalar_t>*>(distances.mutable_data_ptr<scalar_t>());
    at::parallel_for(0, (num_locations + kBlock - 1) / kBlock, /*grain_size=*/8, [&](int64_t begin, int64_t end) {
      int32_t chosen[kBlock];
      for (int64_t start = begin * kBlock; start < std::min(end * kBlock, num_locations); start += kBlock) {
        const int64_t n = std::min(kBlock, num_locations - start);
        const Block<scalar_t> block(location + 2 * start, range + 2 * start, radius ? radius + start : nullptr, n);
        for (int64_t image = 0; image < num_images; ++image) {
          choose_boxes(block, box, offset[image], offset[image + 1], continuous ? 0 : 1, chosen);
          for (int64_t i = 0; i < n; ++i) {
            if (chosen[i] < 0) {
              continue;
            }
            const int64_t index = offset[image] + chosen[i];
            const int64_t place = image * num_locations + start + i;
            const auto sides = Sides<scalar_t>::of(block.x[i], block.y[i], box + 4 * index);
            out_label[place] = label[index];
            out_distance[place] = sides;
          }
        }
      }
    });
  });
  return {assigned, distances};
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CPU, m) {
  m.impl("assign_boxes", &assign_targets_cpu);
}

} // namespace fcos_core
