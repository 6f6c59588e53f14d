#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/cuda/detail/IntegerDivider.cuh>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>
#include <optional>

#include "check_memory.h"
#include "vector_cuda.h"

namespace fcos_core {
namespace {

constexpr int kThreads = 256;

// Each thread handles one Vector; the last thread handles the remaining elements, which may not fill a Vector. bias and
// shortcut may be null.
template <typename scalar_t, typename math_t>
__global__ void __launch_bounds__(kThreads) add_relu_kernel(
    scalar_t* x,
    const scalar_t* bias,
    const scalar_t* shortcut,
    bool relu,
    unsigned int elements,
    at::cuda::detail::IntDivider<unsigned int> channels
) {
  using Vec = Vector<scalar_t>;
  const unsigned int first = (blockIdx.x * kThreads + threadIdx.x) * Vec::kSize;
  if (first >= elements) {
    return;
  }
  const bool whole = first + Vec::kSize <= elements;
  Vec values = {}, others = {};
  if (whole) {
    values = *reinterpret_cast<const Vec*>(x + first);
    if (shortcut != nullptr) {
      others = *reinterpret_cast<const Vec*>(shortcut + first);
    }
  } else {
#pragma unroll
    for (int i = 0; i < Vec::kSize; ++i) {
      if (first + i < elements) {
        values.value[i] = x[first + i];
        others.value[i] = shortcut != nullptr ? shortcut[first + i] : scalar_t(0);
      }
    }
  }
  unsigned int channel = channels.mod(first);
#pragma unroll
  for (int i = 0; i < Vec::kSize; ++i) {
    auto value = static_cast<math_t>(values.value[i]);
    if (bias != nullptr) {
      value += static_cast<math_t>(bias[channel]);
      channel = channel + 1 == channels.divisor ? 0 : channel + 1;
    }
    if (shortcut != nullptr) {
      value += static_cast<math_t>(others.value[i]);
    }
    values.value[i] = static_cast<scalar_t>(relu && value < math_t(0) ? math_t(0) : value); // keeps NaN
  }
  if (whole) {
    *reinterpret_cast<Vec*>(x + first) = values;
  } else {
#pragma unroll
    for (int i = 0; i < Vec::kSize; ++i) {
      if (first + i < elements) {
        x[first + i] = values.value[i];
      }
    }
  }
}

void add_relu_cuda_(
    at::Tensor x, const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& shortcut, bool relu
) {
  check_memory(
      (!bias || (bias->numel() == x.size(1) && on_device(x.device(), *bias))) &&
          (!shortcut || (shortcut->sizes() == x.sizes() && on_device(x.device(), *shortcut))),
      "add_relu_"
  );
  TORCH_CHECK(
      x.is_contiguous(at::MemoryFormat::ChannelsLast) && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 &&
          x.numel() <= std::numeric_limits<int32_t>::max(),
      "add_relu_: on CUDA x must be channels-last, begin at a multiple of 16 bytes and have less than 2^31 elements."
  );
  if (x.numel() == 0) {
    return;
  }
  const c10::cuda::OptionalCUDAGuard guard(x.device());
  const at::Tensor biases = bias ? bias->contiguous() : at::Tensor();
  const at::Tensor others = shortcut ? aligned(*shortcut, at::MemoryFormat::ChannelsLast) : at::Tensor();
  const auto elements = static_cast<unsigned int>(x.numel());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "add_relu_cuda_", [&] {
    constexpr unsigned int kPerBlock = kThreads * Vector<scalar_t>::kSize;
    add_relu_kernel<scalar_t, at::opmath_type<scalar_t>>
        <<<(elements + kPerBlock - 1) / kPerBlock, kThreads, 0, stream>>>(
            x.mutable_data_ptr<scalar_t>(),
            bias ? biases.const_data_ptr<scalar_t>() : nullptr,
            shortcut ? others.const_data_ptr<scalar_t>() : nullptr,
            relu,
            elements,
            at::cuda::detail::IntDivider<unsigned int>(static_cast<unsigned int>(x.size(1)))
        );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CUDA, m) {
  m.impl("add_relu_", &add_relu_cuda_);
}

} // namespace fcos_core
