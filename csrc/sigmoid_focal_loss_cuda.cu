#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>

#include "sigmoid_focal_loss.h"

namespace fcos_core {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65536; // beyond this the grid-stride loop takes over

unsigned int blocks_for(int64_t elements) {
  return static_cast<unsigned int>(std::min((elements + kThreads - 1) / kThreads, kMaxBlocks));
}

template <typename scalar_t, typename math_t>
__global__ void loss_kernel(
    const scalar_t* logits,
    const int64_t* labels,
    FocalLoss<math_t> focal,
    int64_t elements,
    int64_t columns,
    scalar_t* losses
) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += step) {
    const int64_t row = i / columns;
    const int64_t column = i - row * columns;
    const int64_t label = labels[row];
    const math_t value =
        label < 0 ? math_t(0) : focal.loss(static_cast<math_t>(logits[i]), label == column + 1);
    losses[i] = static_cast<scalar_t>(value);
  }
}

// grad is read through its strides: after .sum() it is one number expanded, and a copy would cost a whole
// tensor
template <typename scalar_t, typename math_t>
__global__ void backward_kernel(
    const scalar_t* grad,
    int64_t grad_row_stride,
    int64_t grad_column_stride,
    const scalar_t* logits,
    const int64_t* labels,
    FocalLoss<math_t> focal,
    int64_t elements,
    int64_t columns,
    scalar_t* result
) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += step) {
    const int64_t row = i / columns;
    const int64_t column = i - row * columns;
    const int64_t label = labels[row];
    const auto g = static_cast<math_t>(grad[row * grad_row_stride + column * grad_column_stride]);
    const math_t value =
        label < 0 ? math_t(0) : g * focal.derivative(static_cast<math_t>(logits[i]), label == column + 1);
    result[i] = static_cast<scalar_t>(value);
  }
}

at::Tensor sigmoid_focal_loss_cuda(
    const at::Tensor& logits, const at::Tensor& targets, double gamma, double alpha
) {
  check_focal_loss_inputs(logits, targets, gamma, alpha);
  const c10::cuda::OptionalCUDAGuard guard(logits.device());
  const at::Tensor x = logits.contiguous();
  const at::Tensor labels = targets.to(at::kLong).contiguous();
  at::Tensor losses = at::empty_like(x);
  if (x.numel() == 0) {
    return losses;
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "sigmoid_focal_loss_cuda", [&] {
    using math_t = at::opmath_type<scalar_t>;
    const FocalLoss<math_t> focal{static_cast<math_t>(gamma), static_cast<math_t>(alpha)};
    loss_kernel<scalar_t, math_t><<<blocks_for(x.numel()), kThreads, 0, stream>>>(
        x.const_data_ptr<scalar_t>(),
        labels.const_data_ptr<int64_t>(),
        focal,
        x.numel(),
        x.size(1),
        losses.mutable_data_ptr<scalar_t>()
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return losses;
}

at::Tensor sigmoid_focal_loss_backward_cuda(
    const at::Tensor& grad, const at::Tensor& logits, const at::Tensor& targets, double gamma, double alpha
) {
  check_focal_loss_inputs(logits, targets, gamma, alpha);
  check_focal_loss_grad(grad, logits);
  const c10::cuda::OptionalCUDAGuard guard(logits.device());
  const at::Tensor x = logits.contiguous();
  const at::Tensor labels = targets.to(at::kLong).contiguous();
  at::Tensor result = at::empty_like(x);
  if (x.numel() == 0) {
    return result;
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "sigmoid_focal_loss_backward_cuda", [&] {
        using math_t = at::opmath_type<scalar_t>;
        const FocalLoss<math_t> focal{static_cast<math_t>(gamma), static_cast<math_t>(alpha)};
        backward_kernel<scalar_t, math_t><<<blocks_for(x.numel()), kThreads, 0, stream>>>(
            grad.const_data_ptr<scalar_t>(),
            grad.stride(0),
            grad.stride(1),
            x.const_data_ptr<scalar_t>(),
            labels.const_data_ptr<int64_t>(),
            focal,
            x.numel(),
            x.size(1),
            result.mutable_data_ptr<scalar_t>()
        );
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      }
  );
  return result;
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CUDA, m) {
  m.impl("sigmoid_focal_loss", &sigmoid_focal_loss_cuda);
  m.impl("sigmoid_focal_loss_backward", &sigmoid_focal_loss_backward_cuda);
}

} // namespace fcos_core
