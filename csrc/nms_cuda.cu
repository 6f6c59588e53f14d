#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/searchsorted.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>

#include "check_memory.h"
#include "nms.h"

namespace fcos_core {
namespace {

constexpr int kThreads = 512;
constexpr int kChunk = 64; // boxes that are decided together, one bit for each
constexpr int kPairs = 8; // boxes of a chunk that one thread compares with one box, one bit of a byte for each
static_assert(kChunk * kChunk == kThreads * kPairs);

template <typename T>
struct alignas(16) Box {
  T side[4];
};

// The grid has one block for each box, but only the block of a segment's first box works. So the host need not wait
// for the number of segments. boxes and alive are in sorted order; ends[i] is one past the last box of the segment of
// box i. alive is false in empty slots when the kernel starts.
//
// The block walks through its segment in chunks. Within a chunk, all pairs are compared at once; one thread then
// decides from the resulting bits which boxes are kept; and the kept boxes are compared with all boxes after the chunk.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    nms_mask_kernel(const Box<T>* boxes, const int64_t* ends, T threshold, bool* alive) {
  __shared__ Box<T> chunk[kChunk];
  __shared__ unsigned int waiting_halves[2]; // bit i: box i is not suppressed by an earlier chunk
  __shared__ unsigned long long overlapped[kChunk]; // bit j of [i]: box i, if kept, suppresses the later box j
  __shared__ unsigned long long kept_bits;

  const int64_t begin = blockIdx.x;
  const int64_t end = ends[begin];
  if (begin > 0 && ends[begin - 1] == end) {
    return; // all threads of the block return, so no barrier below waits for them
  }
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t start = begin; start < end; start += kChunk) {
    __syncthreads(); // all threads are done with the flags and the shared memory of the previous chunk
    if (thread < kChunk) { // whole warps
      const bool exists = start + thread < end;
      const unsigned int half = __ballot_sync(0xffffffffu, exists && alive[start + thread]);
      if (thread % 32 == 0) {
        waiting_halves[thread / 32] = half;
      }
      if (exists) {
        chunk[thread] = boxes[start + thread];
      }
    }
    __syncthreads();
    const unsigned long long waiting =
        waiting_halves[0] | static_cast<unsigned long long>(waiting_halves[1]) << 32;
    const int i = thread / (kChunk / kPairs);
    const int byte = thread % (kChunk / kPairs);
    unsigned int bits = 0;
    for (int k = 0; k < kPairs; ++k) {
      const int j = byte * kPairs + k;
      if (j > i && (waiting >> i & 1) && (waiting >> j & 1) && overlaps(chunk[i].side, chunk[j].side, threshold)) {
        bits |= 1u << k;
      }
    }
    reinterpret_cast<unsigned char*>(&overlapped[i])[byte] = static_cast<unsigned char>(bits);
    __syncthreads();
    if (thread == 0) {
      unsigned long long kept = 0;
      for (unsigned long long undecided = waiting; undecided != 0;) {
        const int best = __ffsll(static_cast<long long>(undecided)) - 1;
        kept |= 1ull << best;
        undecided &= ~(1ull << best | overlapped[best]);
      }
      kept_bits = kept;
    }
    __syncthreads();
    const unsigned long long kept = kept_bits;
    if (thread < kChunk && start + thread < end) {
      alive[start + thread] = kept >> thread & 1;
    }
    for (int64_t j = start + kChunk + thread; j < end; j += kThreads) {
      if (!alive[j]) {
        continue;
      }
      const Box<T> box = boxes[j];
      for (unsigned long long rest = kept; rest != 0; rest &= rest - 1) {
        const int best = __ffsll(static_cast<long long>(rest)) - 1;
        if (overlaps(chunk[best].side, box.side, threshold)) {
          alive[j] = false;
          break;
        }
      }
    }
  }
}

at::Tensor nms_mask_cuda(
    const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups, double iou_threshold
) {
  check_memory(nms_sizes_fit(boxes, scores, groups), "nms_mask");
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
  at::Tensor alive = is_filled(scores.index_select(0, order));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "nms_mask_cuda", [&] {
    nms_mask_kernel<scalar_t><<<static_cast<unsigned int>(n), kThreads, 0, stream>>>(
        reinterpret_cast<const Box<scalar_t>*>(sorted_boxes.const_data_ptr<scalar_t>()),
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
