#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/searchsorted.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>

#include "nms.h"

namespace fcos_core {
namespace {

constexpr int kThreads = 256;

// One block per box, of which only the block of each segment's first box works, so the host need not count
// segments. boxes (n, 4) and alive (n,) are in sorted order; ends[i] is one past the last box of the segment
// of box i.
template <typename T>
__global__ void nms_mask_kernel(const T* boxes, const int64_t* ends, T threshold, bool* alive) {
  const int64_t begin = blockIdx.x;
  if (begin > 0 && ends[begin] == ends[begin - 1]) {
    return; // the whole block leaves, so no barrier below waits for it
  }
  const int64_t end = ends[begin];
  for (int64_t i = begin; i < end; ++i) {
    __syncthreads(); // the flag of box i is final: only passes before i write it
    if (!alive[i]) {
      continue; // every thread reads the same flag, since pass i writes only flags after i
    }
    for (int64_t j = i + 1 + threadIdx.x; j < end; j += blockDim.x) {
      if (alive[j] && overlaps(boxes + 4 * i, boxes + 4 * j, threshold)) {
        alive[j] = false;
      }
    }
  }
}

at::Tensor nms_mask_cuda(
    const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups, double iou_threshold
) {
  check_nms_inputs(boxes, scores, groups, iou_threshold);
  const c10::cuda::OptionalCUDAGuard guard(boxes.device());
  const int64_t n = boxes.size(0);
  TORCH_CHECK(
      n <= std::numeric_limits<int>::max(), "nms_mask: at most 2^31 - 1 boxes fit one launch, got ", n, "."
  );
  at::Tensor keep = at::empty({n}, boxes.options().dtype(at::kBool));
  if (n == 0) {
    return keep;
  }
  const at::Tensor order = order_by_group_and_score(scores, groups);
  const at::Tensor sorted_boxes = boxes.index_select(0, order);
  const at::Tensor sorted_groups = groups.index_select(0, order);
  const at::Tensor ends = at::searchsorted(sorted_groups, sorted_groups, /*out_int32=*/false, /*right=*/true);
  at::Tensor alive = at::ones_like(keep);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "nms_mask_cuda", [&] {
    nms_mask_kernel<scalar_t><<<static_cast<unsigned int>(n), kThreads, 0, stream>>>(
        sorted_boxes.const_data_ptr<scalar_t>(),
        ends.const_data_ptr<int64_t>(),
        static_cast<scalar_t>(iou_threshold),
        alive.mutable_data_ptr<bool>()
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  keep.index_copy_(0, order, alive); // back to the input order
  return keep;
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CUDA, m) {
  m.impl("nms_mask", &nms_mask_cuda);
}

} // namespace fcos_core
