#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/cuda/detail/IntegerDivider.cuh>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>

#include "check_memory.h"
#include "sigmoid_focal_loss.h"
#include "vector_cuda.h"

namespace fcos_core {
namespace {

constexpr int kThreads = 256;

// Replaces a vector of neighbouring logits by their derivatives times `scale` and returns the sum of their losses. The
// first logit stands at `column` of the row whose label is *label.
template <bool kSquare, typename scalar_t, typename math_t>
__device__ math_t evaluate(
    Vector<scalar_t>& vector,
    const int64_t* label,
    unsigned int column,
    unsigned int columns,
    const FocalLoss<math_t>& focal,
    math_t scale
) {
  constexpr int kSize = Vector<scalar_t>::kSize;
  math_t sum = 0;
  int64_t truth = *label;
  const bool one_row = column + kSize <= columns;
  if (one_row && truth >= 0 && (truth <= column || truth > column + kSize)) { // all are negatives, the usual case
    const math_t weight = focal.weight_of_slope(false) * scale;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const auto value = focal.template at<kSquare>(static_cast<math_t>(vector.value[i]), false);
      sum = multiply_add(value.modulation, value.cross_entropy, sum);
      vector.value[i] = static_cast<scalar_t>(weight * value.modulation * value.slope);
    }
    return sum * focal.weight(false);
  }
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    if (column == columns) {
      column = 0;
      truth = *++label;
    }
    ++column;
    const bool positive = truth == column;
    const auto value = focal.template at<kSquare>(static_cast<math_t>(vector.value[i]), positive);
    const math_t loss = focal.weight(positive) * value.modulation * value.cross_entropy;
    const math_t derivative = focal.weight_of_slope(positive) * scale * value.modulation * value.slope;
    sum += truth < 0 ? math_t(0) : loss;
    vector.value[i] = static_cast<scalar_t>(truth < 0 ? math_t(0) : derivative);
  }
  return sum;
}

// Returns the sum of `value` over the block to its first thread. The order of additions is fixed.
template <typename T>
__device__ T block_sum(T value) {
  __shared__ T warps[kThreads / 32];
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_down_sync(0xffffffffu, value, distance);
  }
  if (threadIdx.x % 32 == 0) {
    warps[threadIdx.x / 32] = value;
  }
  __syncthreads();
  T sum = 0;
  for (int warp = 0; threadIdx.x == 0 && warp < kThreads / 32; ++warp) {
    sum += warps[warp];
  }
  return sum;
}

// Block b handles the rows from b * rows up to (b + 1) * rows, the last block those that are left. rows is a multiple
// of a vector's size, so that every block begins at a whole vector. grad may be null.
template <typename scalar_t, typename math_t, bool kSquare>
__global__ void __launch_bounds__(kThreads) sum_kernel(
    const scalar_t* logits,
    const int64_t* labels,
    const math_t* scale,
    FocalLoss<math_t> focal,
    int64_t total_rows,
    unsigned int rows,
    at::cuda::detail::IntDivider<unsigned int> columns,
    math_t* partial_sums,
    scalar_t* grad
) {
  using Vec = Vector<scalar_t>;
  constexpr int kUnroll = 2; // loads in flight
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * rows;
  const int64_t left = total_rows - first_row;
  const unsigned int elements = (left < rows ? static_cast<unsigned int>(left) : rows) * columns.divisor;
  const unsigned int vectors = elements / Vec::kSize;
  const int64_t start = first_row * columns.divisor;
  labels += first_row;
  logits += start;
  grad = grad == nullptr ? nullptr : grad + start;
  const math_t factor = *scale;

  math_t sum = 0;
  for (unsigned int base = threadIdx.x; base < vectors; base += kUnroll * kThreads) {
    Vec loaded[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) {
      if (base + k * kThreads < vectors) {
        loaded[k] = reinterpret_cast<const Vec*>(logits)[base + k * kThreads];
      }
    }
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) {
      const unsigned int index = base + k * kThreads;
      if (index < vectors) {
        const auto place = columns.divmod(index * Vec::kSize);
        sum += evaluate<kSquare>(loaded[k], labels + place.div, place.mod, columns.divisor, focal, factor);
        if (grad != nullptr) {
          reinterpret_cast<Vec*>(grad)[index] = loaded[k];
        }
      }
    }
  }
  // The elements of the last block that do not fill a vector.
  const unsigned int index = vectors * Vec::kSize + threadIdx.x;
  if (index < elements) {
    const auto place = columns.divmod(index);
    const int64_t label = labels[place.div];
    const bool positive = label == place.mod + 1;
    const auto value = focal.template at<kSquare>(static_cast<math_t>(logits[index]), positive);
    const math_t loss = focal.weight(positive) * value.modulation * value.cross_entropy;
    const math_t derivative = focal.weight_of_slope(positive) * factor * value.modulation * value.slope;
    sum += label < 0 ? math_t(0) : loss;
    if (grad != nullptr) {
      grad[index] = static_cast<scalar_t>(label < 0 ? math_t(0) : derivative);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    partial_sums[blockIdx.x] = sum;
  }
}

// Multiplies the elements by *factor. All threads return at once if it is 1.
template <typename scalar_t, typename math_t>
__global__ void __launch_bounds__(kThreads) scale_kernel(scalar_t* values, int64_t elements, const math_t* factor) {
  using Vec = Vector<scalar_t>;
  const math_t by = *factor;
  if (by == math_t(1)) {
    return;
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t vectors = elements / Vec::kSize;
  for (int64_t i = thread; i < vectors; i += step) {
    Vec vector = reinterpret_cast<const Vec*>(values)[i];
#pragma unroll
    for (int k = 0; k < Vec::kSize; ++k) {
      vector.value[k] = static_cast<scalar_t>(static_cast<math_t>(vector.value[k]) * by);
    }
    reinterpret_cast<Vec*>(values)[i] = vector;
  }
  const int64_t rest = vectors * Vec::kSize + thread;
  if (rest < elements) {
    values[rest] = static_cast<scalar_t>(static_cast<math_t>(values[rest]) * by);
  }
}

std::tuple<at::Tensor, at::Tensor> sigmoid_focal_loss_sum_cuda(
    const at::Tensor& logits,
    const at::Tensor& targets,
    const at::Tensor& scale,
    double gamma,
    double alpha,
    bool with_grad
) {
  check_memory(
      focal_loss_sizes_fit(logits, targets, scale) && on_device(logits.device(), {targets, scale}),
      "sigmoid_focal_loss_sum"
  );
  const c10::cuda::OptionalCUDAGuard guard(logits.device());
  const at::Tensor x = aligned(logits);
  const at::Tensor labels = targets.to(at::kLong).contiguous();
  at::Tensor grad = with_grad ? at::empty_like(x) : at::empty({0}, x.options());
  const int64_t columns = x.size(1);
  constexpr int64_t kElementsPerBlock = 8192;
  constexpr int64_t kRowUnit = 8; // the largest Vector's size
  TORCH_CHECK(
      columns <= std::numeric_limits<int32_t>::max() / (2 * kRowUnit),
      "sigmoid_focal_loss_sum: at most 2^27 - 1 classes fit, got ",
      columns,
      "."
  );
  const int64_t row_units = kElementsPerBlock / std::max<int64_t>(columns, 1) / kRowUnit;
  const int64_t rows = std::max(row_units, int64_t(1)) * kRowUnit;
  const int64_t blocks = x.numel() == 0 ? 0 : (x.size(0) + rows - 1) / rows;
  at::Tensor partial_sums = at::empty({blocks}, scale.options());
  if (blocks > 0) {
    const auto stream = c10::cuda::getCurrentCUDAStream();
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, x.scalar_type(), "sigmoid_focal_loss_sum_cuda", [&] {
          using math_t = at::opmath_type<scalar_t>;
          const auto kernel =
              gamma == 2 ? sum_kernel<scalar_t, math_t, true> : sum_kernel<scalar_t, math_t, false>;
          kernel<<<static_cast<unsigned int>(blocks), kThreads, 0, stream>>>(
              x.const_data_ptr<scalar_t>(),
              labels.const_data_ptr<int64_t>(),
              scale.const_data_ptr<math_t>(),
              FocalLoss<math_t>{static_cast<math_t>(gamma), static_cast<math_t>(alpha)},
              x.size(0),
              static_cast<unsigned int>(rows),
              at::cuda::detail::IntDivider<unsigned int>(static_cast<unsigned int>(columns)),
              partial_sums.mutable_data_ptr<math_t>(),
              with_grad ? grad.mutable_data_ptr<scalar_t>() : nullptr
          );
          C10_CUDA_KERNEL_LAUNCH_CHECK();
        }
    );
  }
  return {partial_sums.sum().mul_(scale), grad};
}

void scale_gradient_cuda_(at::Tensor gradient, const at::Tensor& factor) {
  check_memory(factor.numel() == 1 && on_device(gradient.device(), factor), "scale_gradient_");
  const c10::cuda::OptionalCUDAGuard guard(gradient.device());
  TORCH_CHECK(
      gradient.is_contiguous() && reinterpret_cast<uintptr_t>(gradient.const_data_ptr()) % 16 == 0,
      "scale_gradient_: gradient must be contiguous and begin at a multiple of 16 bytes."
  );
  if (gradient.numel() == 0) {
    return;
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, gradient.scalar_type(), "scale_gradient_cuda_", [&] {
        using math_t = at::opmath_type<scalar_t>;
        // Few blocks are enough, because most often the factor is 1 and they return at once.
        const int64_t blocks = std::min<int64_t>((gradient.numel() + kThreads - 1) / kThreads, 2048);
        scale_kernel<scalar_t, math_t><<<static_cast<unsigned int>(blocks), kThreads, 0, stream>>>(
            gradient.mutable_data_ptr<scalar_t>(), gradient.numel(), factor.const_data_ptr<math_t>()
        );
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      }
  );
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CUDA, m) {
  m.impl("sigmoid_focal_loss_sum", &sigmoid_focal_loss_sum_cuda);
  m.impl("scale_gradient_", &scale_gradient_cuda_);
}

} // namespace fcos_core
