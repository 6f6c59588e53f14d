#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>

#include "check_memory.h"
#include "vector_cuda.h"

// A channels-last map is a matrix of pixels by channels; each thread handles the channels of one Vector. Sums over
// pixels take two steps, the first over blocks of kPixels. Their order does not depend on the batch.

namespace fcos_core {
namespace {

constexpr int kThreads = 256;
constexpr int kPixels = 64;

// The pixels [first, last) of image blockIdx.y that a block handles.
struct Chunk {
  int64_t start; // the image's first pixel in the batch
  int64_t first, last;
  int columns; // Vectors in a pixel
  int column; // the thread's Vector in a pixel
  int lane; // number of the thread among the threads of its column
  int lanes; // threads of a column; the last threads of the block may belong to none

  __device__ Chunk(int64_t pixels, int columns)
      : start(blockIdx.y * pixels),
        first(static_cast<int64_t>(blockIdx.x) * kPixels),
        last(first + kPixels < pixels ? first + kPixels : pixels),
        columns(columns),
        column(threadIdx.x % columns),
        lane(threadIdx.x / columns),
        lanes(kThreads / columns) {}

  // Calls do_pixel(index of the Vector in the batch) for each pixel of this thread.
  template <typename Function>
  __device__ void for_each_pixel(Function do_pixel) const {
    if (lane < lanes) {
#pragma unroll 4
      for (int64_t pixel = first + lane; pixel < last; pixel += lanes) {
        do_pixel((start + pixel) * columns + column);
      }
    }
  }
};

// Means and 1 / standard deviations (images, groups), weights and biases (channels).
template <typename math_t>
struct Norm {
  const math_t* means;
  const math_t* rstds;
  const math_t* weights;
  const math_t* biases;
  int groups;
};

// The normalization of a thread's channels. It computes in the order of the reference definition, so that forward and
// backward pass agree on the outputs that are 0.
template <typename math_t, int kSize>
struct Channels {
  math_t mean[kSize], rstd[kSize], weight[kSize], bias[kSize];

  __device__ Channels(const Chunk& chunk, const Norm<math_t>& norm) {
    const int group_size = chunk.columns * kSize / norm.groups;
    for (int i = 0; i < kSize; ++i) {
      const int channel = chunk.column * kSize + i;
      const int64_t group = static_cast<int64_t>(blockIdx.y) * norm.groups + channel / group_size;
      mean[i] = norm.means[group];
      rstd[i] = norm.rstds[group];
      weight[i] = norm.weights[channel];
      bias[i] = norm.biases[channel];
    }
  }

  __device__ math_t normalized(int i, math_t x) const {
    return (x - mean[i]) * rstd[i];
  }

  __device__ math_t output(int i, math_t normalized) const {
    return normalized * weight[i] + bias[i];
  }
};

// Adds up two numbers for each channel over the lanes of the block and writes the sums to result (2, channels).
template <typename math_t, int kSize>
__device__ void add_lanes(
    const Chunk& chunk, const math_t (&first)[kSize], const math_t (&second)[kSize], math_t* result
) {
  __shared__ math_t shared[2][kThreads * kSize];
  const int channels = chunk.columns * kSize;
  if (chunk.lane < chunk.lanes) {
    for (int i = 0; i < kSize; ++i) {
      const int place = chunk.lane * channels + chunk.column * kSize + i;
      shared[0][place] = first[i];
      shared[1][place] = second[i];
    }
  }
  __syncthreads();
  for (int sum = 0; sum < 2; ++sum) {
    for (int channel = threadIdx.x; channel < channels; channel += kThreads) {
      math_t total = 0;
      for (int lane = 0; lane < chunk.lanes; ++lane) {
        total += shared[sum][lane * channels + channel];
      }
      result[sum * channels + channel] = total;
    }
  }
}

// Adds up two numbers for each channel of group blockIdx.x over the chunks (chunks, 2, channels) of image blockIdx.y.
// Thread i < group_size returns the sums of the group's channel i in `first` and `second`; other threads return nothing
// of use.
template <typename math_t>
__device__ void add_chunks(
    const math_t* partial, int64_t chunks, int channels, int group_size, math_t& first, math_t& second
) {
  __shared__ math_t shared[2][kThreads];
  const int channel = threadIdx.x % group_size;
  const int lane = threadIdx.x / group_size;
  const int lanes = kThreads / group_size;
  const math_t* sums = partial + blockIdx.y * chunks * 2 * channels + blockIdx.x * group_size + channel;
  first = second = 0;
  if (lane < lanes) {
    for (int64_t chunk = lane; chunk < chunks; chunk += lanes) {
      first += sums[chunk * 2 * channels];
      second += sums[(chunk * 2 + 1) * channels];
    }
  }
  shared[0][threadIdx.x] = first;
  shared[1][threadIdx.x] = second;
  __syncthreads();
  if (lane == 0) {
    for (int other = 1; other < lanes; ++other) {
      first += shared[0][other * group_size + channel];
      second += shared[1][other * group_size + channel];
    }
  }
}

// Count, mean, and sum of squared distances to the mean of some numbers. Plain sums of squares would lose digits.
template <typename math_t>
struct Moments {
  math_t count, mean, squares;

  // Combines the moments of two sets of numbers (Chan et al. 1979).
  __device__ void add(const Moments& other) {
    const math_t total = count + other.count;
    if (total > math_t(0)) {
      const math_t distance = other.mean - mean;
      const math_t share = other.count / total;
      mean += distance * share;
      squares += other.squares + distance * distance * count * share;
      count = total;
    }
  }
};

// Computes for each channel the mean over the chunk's pixels and the sum of squared distances to this mean.
template <typename scalar_t, typename math_t>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(const scalar_t* x, int64_t pixels, int columns, math_t* partial) {
  using Vec = Vector<scalar_t>;
  __shared__ math_t lane_means[kThreads * Vec::kSize], lane_squares[kThreads * Vec::kSize];
  const Chunk chunk(pixels, columns);
  const int channels = columns * Vec::kSize;
  math_t count = 0, mean[Vec::kSize] = {}, square[Vec::kSize] = {};
  chunk.for_each_pixel([&](int64_t index) {
    const Vec vector = reinterpret_cast<const Vec*>(x)[index];
    count += math_t(1);
    const math_t share = math_t(1) / count;
#pragma unroll
    for (int i = 0; i < Vec::kSize; ++i) {
      const auto value = static_cast<math_t>(vector.value[i]);
      const math_t distance = value - mean[i];
      mean[i] = std::fma(distance, share, mean[i]);
      square[i] = std::fma(distance, value - mean[i], square[i]);
    }
  });
  if (chunk.lane < chunk.lanes) {
    for (int i = 0; i < Vec::kSize; ++i) {
      const int place = chunk.lane * channels + chunk.column * Vec::kSize + i;
      lane_means[place] = mean[i];
      lane_squares[place] = square[i];
    }
  }
  __syncthreads();
  math_t* result = partial + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * 2 * channels;
  const auto length = static_cast<int>(chunk.last - chunk.first);
  for (int channel = threadIdx.x; channel < channels; channel += kThreads) {
    Moments<math_t> total{};
    for (int lane = 0; lane < chunk.lanes && lane < length; ++lane) {
      const auto in_lane = static_cast<math_t>((length - lane + chunk.lanes - 1) / chunk.lanes);
      total.add({in_lane, lane_means[lane * channels + channel], lane_squares[lane * channels + channel]});
    }
    result[channel] = total.mean;
    result[channels + channel] = total.squares;
  }
}

// Computes mean and 1 / standard deviation of group blockIdx.x of image blockIdx.y.
template <typename math_t>
__global__ void __launch_bounds__(kThreads) statistics_kernel(
    const math_t* partial, int64_t pixels, int64_t chunks, int channels, math_t epsilon, math_t* means, math_t* rstds
) {
  __shared__ math_t counts[kThreads], part_means[kThreads], part_squares[kThreads];
  const int group_size = channels / gridDim.x;
  const int lanes = kThreads / group_size;
  const int thread = static_cast<int>(threadIdx.x);
  const math_t* image = partial + blockIdx.y * chunks * 2 * channels + blockIdx.x * group_size + thread % group_size;
  Moments<math_t> own{};
  if (thread < lanes * group_size) {
    for (int64_t chunk = thread / group_size; chunk < chunks; chunk += lanes) {
      const int64_t left = pixels - chunk * kPixels;
      const auto count = static_cast<math_t>(left < kPixels ? left : kPixels);
      own.add({count, image[chunk * 2 * channels], image[(chunk * 2 + 1) * channels]});
    }
  }
  // The lower half of the threads adds the moments of the upper half. One barrier a round is enough: while slow threads
  // still read the upper half's places, the next round writes only the lower half's.
  for (int threads = kThreads; threads > 1; threads /= 2) {
    if (thread < threads) {
      counts[thread] = own.count;
      part_means[thread] = own.mean;
      part_squares[thread] = own.squares;
    }
    __syncthreads();
    const int other = thread + threads / 2;
    if (other < threads) {
      own.add({counts[other], part_means[other], part_squares[other]});
    }
  }
  if (thread == 0) {
    const int64_t group = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    means[group] = own.mean;
    rstds[group] = math_t(1) / std::sqrt(own.squares / own.count + epsilon);
  }
}

// Writes the normalized and rectified x.
template <typename scalar_t, typename math_t>
__global__ void __launch_bounds__(kThreads) normalize_kernel(
    const scalar_t* x,
    Norm<math_t> norm,
    int64_t pixels,
    int columns,
    scalar_t* y
) {
  using Vec = Vector<scalar_t>;
  const Chunk chunk(pixels, columns);
  const Channels<math_t, Vec::kSize> channels(chunk, norm);
  chunk.for_each_pixel([&](int64_t index) {
    Vec vector = reinterpret_cast<const Vec*>(x)[index];
#pragma unroll
    for (int i = 0; i < Vec::kSize; ++i) {
      const math_t value = channels.output(i, channels.normalized(i, static_cast<math_t>(vector.value[i])));
      vector.value[i] = static_cast<scalar_t>(value < math_t(0) ? math_t(0) : value); // keeps NaN
    }
    reinterpret_cast<Vec*>(y)[index] = vector;
  });
}

// Sums for each channel the gradients that pass the ReLU, and these gradients times the normalized x.
template <typename scalar_t, typename math_t>
__global__ void __launch_bounds__(kThreads) gradient_sums_kernel(
    const scalar_t* grad,
    const scalar_t* x,
    Norm<math_t> norm,
    int64_t pixels,
    int columns,
    math_t* partial
) {
  using Vec = Vector<scalar_t>;
  const Chunk chunk(pixels, columns);
  const Channels<math_t, Vec::kSize> channels(chunk, norm);
  math_t sum[Vec::kSize] = {}, product[Vec::kSize] = {};
  chunk.for_each_pixel([&](int64_t index) {
    const Vec gradient = reinterpret_cast<const Vec*>(grad)[index];
    const Vec vector = reinterpret_cast<const Vec*>(x)[index];
#pragma unroll
    for (int i = 0; i < Vec::kSize; ++i) {
      const math_t normalized = channels.normalized(i, static_cast<math_t>(vector.value[i]));
      if (!(channels.output(i, normalized) <= math_t(0))) {
        const auto value = static_cast<math_t>(gradient.value[i]);
        sum[i] += value;
        product[i] = std::fma(value, normalized, product[i]);
      }
    }
  });
  const int64_t block = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  add_lanes(chunk, sum, product, partial + block * 2 * columns * Vec::kSize);
}

// Adds up the sums of the chunks. Writes the sums of each channel for the gradients of weight and bias, (images, 2,
// channels), and for each group the means of the weighted sums over the group's elements, (images, groups, 2).
template <typename math_t>
__global__ void __launch_bounds__(kThreads) gradient_means_kernel(
    const math_t* partial,
    const math_t* weights,
    int64_t pixels,
    int64_t chunks,
    int channels,
    math_t* channel_sums,
    math_t* group_means
) {
  __shared__ math_t sums[kThreads], products[kThreads];
  const int group_size = channels / gridDim.x;
  math_t sum, product;
  add_chunks(partial, chunks, channels, group_size, sum, product);
  if (threadIdx.x < group_size) {
    const int channel = blockIdx.x * group_size + threadIdx.x;
    math_t* image_sums = channel_sums + static_cast<int64_t>(blockIdx.y) * 2 * channels;
    image_sums[channel] = sum;
    image_sums[channels + channel] = product;
    sums[threadIdx.x] = sum * weights[channel];
    products[threadIdx.x] = product * weights[channel];
  }
  __syncthreads();
  if (threadIdx.x > 0) {
    return;
  }
  sum = product = 0;
  for (int i = 0; i < group_size; ++i) {
    sum += sums[i];
    product += products[i];
  }
  const math_t count = static_cast<math_t>(pixels) * group_size;
  math_t* result = group_means + 2 * (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x);
  result[0] = sum / count;
  result[1] = product / count;
}

// Writes the gradient of x.
template <typename scalar_t, typename math_t>
__global__ void __launch_bounds__(kThreads) gradient_kernel(
    const scalar_t* grad,
    const scalar_t* x,
    Norm<math_t> norm,
    const math_t* group_means,
    int64_t pixels,
    int columns,
    scalar_t* result
) {
  using Vec = Vector<scalar_t>;
  const Chunk chunk(pixels, columns);
  const Channels<math_t, Vec::kSize> channels(chunk, norm);
  math_t sums[Vec::kSize], products[Vec::kSize]; // means over the group
  const int group_size = columns * Vec::kSize / norm.groups;
  for (int i = 0; i < Vec::kSize; ++i) {
    const int group = (chunk.column * Vec::kSize + i) / group_size;
    const math_t* of_group = group_means + 2 * (static_cast<int64_t>(blockIdx.y) * norm.groups + group);
    sums[i] = of_group[0];
    products[i] = of_group[1];
  }
  chunk.for_each_pixel([&](int64_t index) {
    Vec gradient = reinterpret_cast<const Vec*>(grad)[index];
    const Vec vector = reinterpret_cast<const Vec*>(x)[index];
#pragma unroll
    for (int i = 0; i < Vec::kSize; ++i) {
      const math_t normalized = channels.normalized(i, static_cast<math_t>(vector.value[i]));
      const bool passes = !(channels.output(i, normalized) <= math_t(0));
      const math_t weighted = passes ? channels.weight[i] * static_cast<math_t>(gradient.value[i]) : math_t(0);
      gradient.value[i] =
          static_cast<scalar_t>(channels.rstd[i] * (weighted - std::fma(normalized, products[i], sums[i])));
    }
    reinterpret_cast<Vec*>(result)[index] = gradient;
  });
}

void check_fits(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups) {
  check_memory(
      x.dim() == 4 && groups > 0 && x.size(1) % groups == 0 && weight.numel() == x.size(1) &&
          bias.numel() == x.size(1) && on_device(x.device(), {weight, bias}),
      "group_norm_relu"
  );
  constexpr int64_t kVectorBytes = 16;
  const int64_t bytes = x.size(1) * x.element_size();
  TORCH_CHECK(
      x.numel() > 0 && x.size(0) <= 65535 && groups <= std::numeric_limits<int32_t>::max() &&
          bytes % kVectorBytes == 0 && bytes <= kThreads * kVectorBytes && x.size(1) / groups <= kThreads,
      "group_norm_relu: the CUDA kernel takes 1 to 65535 images, pixels whose channels fill whole multiples of 16 "
      "bytes up to 4096, and groups of up to 256 channels; x is ",
      x.scalar_type(),
      " of ",
      x.sizes(),
      " in ",
      groups,
      " groups."
  );
}

// Sizes of x (N, C, H, W) and of the grids: chunks of pixels by images, or groups by images.
struct Division {
  int64_t images, pixels, chunks;
  int channels, groups;

  Division(const at::Tensor& x, int64_t groups)
      : images(x.size(0)),
        pixels(x.size(2) * x.size(3)),
        chunks((pixels + kPixels - 1) / kPixels),
        channels(static_cast<int>(x.size(1))),
        groups(static_cast<int>(groups)) {}

  dim3 by_chunk() const {
    return dim3(static_cast<unsigned int>(chunks), static_cast<unsigned int>(images));
  }

  dim3 by_group() const {
    return dim3(static_cast<unsigned int>(groups), static_cast<unsigned int>(images));
  }

  // Returns memory for two numbers for each channel of each chunk.
  at::Tensor partial(const at::Tensor& like) const {
    return at::empty({images, chunks, 2, channels}, like.options());
  }
};

// Returns the pointers that the kernels take. All tensors must be contiguous.
template <typename math_t>
Norm<math_t> norm_of(
    const at::Tensor& means, const at::Tensor& rstds, const at::Tensor& weights, const at::Tensor& biases
) {
  return {
      means.const_data_ptr<math_t>(),
      rstds.const_data_ptr<math_t>(),
      weights.const_data_ptr<math_t>(),
      biases.const_data_ptr<math_t>(),
      static_cast<int>(means.size(1))
  };
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> group_norm_relu_cuda(
    const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias, int64_t groups, double epsilon
) {
  check_fits(input, weight, bias, groups);
  const c10::cuda::OptionalCUDAGuard guard(input.device());
  const at::Tensor x = aligned(input, at::MemoryFormat::ChannelsLast);
  const at::Tensor weights = weight.contiguous(), biases = bias.contiguous();
  const Division division(x, groups);
  at::Tensor y = at::empty_like(x);
  at::Tensor means = at::empty({division.images, groups}, weight.options());
  at::Tensor rstds = at::empty_like(means);
  at::Tensor partial = division.partial(weight);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm_relu_cuda", [&] {
    using math_t = at::opmath_type<scalar_t>;
    const int columns = division.channels / Vector<scalar_t>::kSize;
    const auto norm = norm_of<math_t>(means, rstds, weights, biases);
    moments_kernel<scalar_t, math_t><<<division.by_chunk(), kThreads, 0, stream>>>(
        x.const_data_ptr<scalar_t>(), division.pixels, columns, partial.mutable_data_ptr<math_t>()
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    statistics_kernel<math_t><<<division.by_group(), kThreads, 0, stream>>>(
        partial.const_data_ptr<math_t>(),
        division.pixels,
        division.chunks,
        division.channels,
        static_cast<math_t>(epsilon),
        means.mutable_data_ptr<math_t>(),
        rstds.mutable_data_ptr<math_t>()
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    normalize_kernel<scalar_t, math_t><<<division.by_chunk(), kThreads, 0, stream>>>(
        x.const_data_ptr<scalar_t>(),
        norm,
        division.pixels,
        columns,
        y.mutable_data_ptr<scalar_t>()
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {y, means, rstds};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> group_norm_relu_backward_cuda(
    const at::Tensor& output_gradient,
    const at::Tensor& input,
    const at::Tensor& weight,
    const at::Tensor& bias,
    const at::Tensor& mean,
    const at::Tensor& rstd
) {
  const int64_t groups = mean.size(-1);
  check_fits(input, weight, bias, groups);
  check_memory(
      output_gradient.sizes() == input.sizes() && mean.dim() == 2 && mean.size(0) == input.size(0) &&
          rstd.sizes() == mean.sizes() && on_device(input.device(), {output_gradient, mean, rstd}),
      "group_norm_relu_backward"
  );
  const c10::cuda::OptionalCUDAGuard guard(input.device());
  const at::Tensor x = aligned(input, at::MemoryFormat::ChannelsLast);
  const at::Tensor grad = aligned(output_gradient, at::MemoryFormat::ChannelsLast);
  const at::Tensor weights = weight.contiguous(), biases = bias.contiguous();
  const at::Tensor means = mean.contiguous(), rstds = rstd.contiguous();
  const Division division(x, groups);
  at::Tensor result = at::empty_like(x);
  at::Tensor partial = division.partial(weight);
  at::Tensor channel_sums = at::empty({division.images, 2, division.channels}, weight.options());
  at::Tensor group_means = at::empty({division.images, groups, 2}, weight.options());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm_relu_backward_cuda", [&] {
    using math_t = at::opmath_type<scalar_t>;
    const int columns = division.channels / Vector<scalar_t>::kSize;
    const auto norm = norm_of<math_t>(means, rstds, weights, biases);
    gradient_sums_kernel<scalar_t, math_t><<<division.by_chunk(), kThreads, 0, stream>>>(
        grad.const_data_ptr<scalar_t>(),
        x.const_data_ptr<scalar_t>(),
        norm,
        division.pixels,
        columns,
        partial.mutable_data_ptr<math_t>()
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    gradient_means_kernel<math_t><<<division.by_group(), kThreads, 0, stream>>>(
        partial.const_data_ptr<math_t>(),
        weights.const_data_ptr<math_t>(),
        division.pixels,
        division.chunks,
        division.channels,
        channel_sums.mutable_data_ptr<math_t>(),
        group_means.mutable_data_ptr<math_t>()
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    gradient_kernel<scalar_t, math_t><<<division.by_chunk(), kThreads, 0, stream>>>(
        grad.const_data_ptr<scalar_t>(),
        x.const_data_ptr<scalar_t>(),
        norm,
        group_means.const_data_ptr<math_t>(),
        division.pixels,
        columns,
        result.mutable_data_ptr<scalar_t>()
    );
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {result, channel_sums.select(1, 1).sum(0), channel_sums.select(1, 0).sum(0)};
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CUDA, m) {
  m.impl("group_norm_relu", &group_norm_relu_cuda);
  m.impl("group_norm_relu_backward", &group_norm_relu_backward_cuda);
}

} // namespace fcos_core
