#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>

#include "assign_targets.h"
#include "check_memory.h"

namespace fcos_core {
namespace {

constexpr int kThreads = 256;

// One thread handles one location; the grid is (blocks of locations, images). The block loads the boxes of its image
// into shared memory, kThreads at a time. `radii` is null without center sampling.
template <typename T>
__global__ void __launch_bounds__(kThreads) assign_targets_kernel(
    const T* locations,
    const T* ranges,
    const T* boxes,
    const int64_t* labels,
    const int64_t* offsets,
    const T* radii,
    T edge,
    int64_t num_locations,
    int64_t num_boxes,
    int64_t* assigned,
    Sides<T>* distances
) {
  __shared__ T tile[kThreads][4];
  __shared__ T areas[kThreads];
  const int64_t location = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool exists = location < num_locations; // threads without a location help to load boxes
  const T x = exists ? locations[2 * location] : T(0);
  const T y = exists ? locations[2 * location + 1] : T(0);
  const T lowest = exists ? ranges[2 * location] : T(0);
  const T highest = exists ? ranges[2 * location + 1] : T(0);
  const T radius = exists && radii ? radii[location] : T(0);

  // The host has not checked the values of offsets: clamp them, so that wrong ones do not lead outside of boxes.
  const int64_t first = offsets[blockIdx.y] > 0 ? offsets[blockIdx.y] : 0;
  const int64_t last = offsets[blockIdx.y + 1] < num_boxes ? offsets[blockIdx.y + 1] : num_boxes;
  T least = std::numeric_limits<T>::infinity();
  int64_t chosen = -1;
  for (int64_t start = first; start < last; start += kThreads) {
    const int count = last - start < kThreads ? static_cast<int>(last - start) : kThreads;
    __syncthreads(); // all threads are done with the previous tile
    if (threadIdx.x < count) {
      const T* box = boxes + 4 * (start + threadIdx.x);
      for (int side = 0; side < 4; ++side) {
        tile[threadIdx.x][side] = box[side];
      }
      areas[threadIdx.x] = area_of(box, edge);
    }
    __syncthreads();
    for (int k = 0; k < count; ++k) {
      if (Sides<T>::of(x, y, tile[k]).belongs(lowest, highest) && areas[k] < least &&
          (!radii || Centre<T>::of(tile[k]).is_near(x, y, radius))) {
        least = areas[k];
        chosen = start + k;
      }
    }
  }
  if (!exists) {
    return;
  }
  const int64_t place = blockIdx.y * num_locations + location;
  assigned[place] = chosen < 0 ? 0 : labels[chosen];
  const Sides<T> sides = chosen < 0 ? Sides<T>{} : Sides<T>::of(x, y, boxes + 4 * chosen);
  distances[place] = sides;
}

std::tuple<at::Tensor, at::Tensor> assign_targets_cuda(
    const at::Tensor& locations,
    const at::Tensor& ranges,
    const at::Tensor& boxes,
    const at::Tensor& labels,
    const at::Tensor& offsets,
    const std::optional<at::Tensor>& radii,
    bool continuous
) {
  check_memory(
      assign_targets_sizes_fit(locations, ranges, boxes, labels, offsets, radii) &&
          on_device(locations.device(), {ranges, boxes, labels, offsets, radii.value_or(locations)}),
      "assign_targets"
  );
  const c10::cuda::OptionalCUDAGuard guard(locations.device());
  const at::Tensor points = locations.contiguous(), bounds = ranges.contiguous(), corners = boxes.contiguous();
  const at::Tensor classes = labels.contiguous(), ends = offsets.contiguous();
  const at::Tensor half_sides = radii ? radii->contiguous() : at::Tensor();
  const int64_t num_images = offsets.size(0) - 1;
  const int64_t num_locations = locations.size(0);
  TORCH_CHECK(num_images <= 65535, "assign_targets: at most 65535 images fit one launch, got ", num_images, ".");
  at::Tensor assigned = at::empty({num_images, num_locations}, labels.options());
  at::Tensor distances = at::empty({num_images, num_locations, 4}, boxes.options());
  if (assigned.numel() == 0) {
    return {assigned, distances};
  }
  const dim3 grid(
      static_cast<unsigned int>((num_locations + kThreads - 1) / kThreads), static_cast<unsigned int>(num_images)
  );
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(locations.scalar_type(), "assign_targets_cuda", [&] {
    assign_targets_kernel<scalar_t><<<grid, kThreads, 0, stream>>>(
        points.const_data_ptr<scalar_t>(),
        bounds.const_data_ptr<scalar_t>(),
        corners.const_data_ptr<scalar_t>(),
        classes.const_data_ptr<int64_t>(),
        ends.const_data_ptr<int64_t>(),
        radii ? half_sides.const_data_ptr<scalar_t>() : nullptr,
        continuous ? scalar_t(0) : scalar_t(1),
        num_locations,
        boxes.size(0),
        assigned.mutable_data_ptr<int64_t>(),
        reinterpret_cast<Sides<scalar_t>*>(distances.mutable_data_ptr<scalar_t>())
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {assigned, distances};
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CUDA, m) {
  m.impl("assign_boxes", &assign_targets_cuda);
}

} // namespace fcos_core
