#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <tuple>
#include <vector>

#include "check_memory.h"
#include "sigmoid_focal_loss.h"
#include "vectorized.h"

namespace fcos_core {
namespace {

constexpr int64_t kBlock = 1024; // elements of one step; they fit into the first-level cache
constexpr int64_t kBlocksPerTask = 8;

// The true answer for an element: positive, negative or ignored.
enum : int32_t { kNegative = -1, kIgnored = 0, kPositive = 1 };

template <typename T, bool kSquare>
C10_ALWAYS_INLINE void evaluate(
    const T* logit, const int32_t* answer, int64_t n, const FocalLoss<T>& focal, T* loss, T* derivative
) {
  for (int64_t i = 0; i < n; ++i) {
    const bool positive = answer[i] == kPositive;
    const auto value = focal.template at<kSquare>(logit[i], positive);
    const T weighted_loss = focal.weight(positive) * value.modulation * value.cross_entropy;
    const T weighted_slope = focal.weight_of_slope(positive) * value.modulation * value.slope;
    loss[i] = answer[i] == kIgnored ? T(0) : weighted_loss;
    derivative[i] = answer[i] == kIgnored ? T(0) : weighted_slope;
  }
}

// Computes losses and derivatives of n elements.
FCOS_VECTORIZED void evaluate_block(
    const float* logit, const int32_t* answer, int64_t n, FocalLoss<float> focal, float* loss, float* derivative
) {
  if (focal.gamma == 2) {
    evaluate<float, true>(logit, answer, n, focal, loss, derivative);
  } else {
    evaluate<float, false>(logit, answer, n, focal, loss, derivative);
  }
}

void evaluate_block(
    const double* logit,
    const int32_t* answer,
    int64_t n,
    FocalLoss<double> focal,
    double* loss,
    double* derivative
) {
  if (focal.gamma == 2) {
    evaluate<double, true>(logit, answer, n, focal, loss, derivative);
  } else {
    evaluate<double, false>(logit, answer, n, focal, loss, derivative);
  }
}

// Writes the answers of elements [first, last) of a row-major matrix (rows, columns).
void fill_answers(const int64_t* label, int64_t columns, int64_t first, int64_t last, int32_t* answer) {
  int64_t row = first / columns;
  for (int64_t begin = row * columns; begin < last; begin += columns, ++row) {
    const int64_t from = std::max(begin, first);
    const int64_t to = std::min(begin + columns, last);
    std::fill(answer + (from - first), answer + (to - first), label[row] < 0 ? kIgnored : kNegative);
    // The range of the label is checked first, because begin + label could overflow.
    if (label[row] >= 1 && label[row] <= columns && begin + label[row] - 1 >= from && begin + label[row] - 1 < to) {
      answer[begin + label[row] - 1 - first] = kPositive;
    }
  }
}

// Calls body(first, n, losses, derivatives) for every block of elements of logits (contiguous). Losses and derivatives
// have the math type of scalar_t. The blocks do not depend on the number of threads, so results do not either.
template <typename scalar_t, typename Body>
void for_each_block(
    const at::Tensor& logits, const at::Tensor& labels, double gamma, double alpha, const Body& body
) {
  using math_t = at::opmath_type<scalar_t>;
  const FocalLoss<math_t> focal{static_cast<math_t>(gamma), static_cast<math_t>(alpha)};
  const scalar_t* x = logits.const_data_ptr<scalar_t>();
  const int64_t* label = labels.const_data_ptr<int64_t>();
  const int64_t columns = logits.size(1);
  const int64_t elements = logits.numel();
  at::parallel_for(0, (elements + kBlock - 1) / kBlock, kBlocksPerTask, [&](int64_t begin, int64_t end) {
    math_t logit[kBlock], loss[kBlock], derivative[kBlock];
    int32_t answer[kBlock];
    for (int64_t first = begin * kBlock; first < std::min(end * kBlock, elements); first += kBlock) {
      const int64_t n = std::min(kBlock, elements - first);
      std::copy(x + first, x + first + n, logit);
      fill_answers(label, columns, first, first + n, answer);
      evaluate_block(logit, answer, n, focal, loss, derivative);
      body(first, n, loss, derivative);
    }
  });
}

// Returns the sum of a block's losses. The compiler can keep the lanes in one vector register.
template <typename T>
double sum_of(const T* loss, int64_t n) {
  constexpr int64_t kLanes = 16;
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += loss[i + lane];
    }
  }
  return std::accumulate(loss + i, loss + n, std::accumulate(lanes, lanes + kLanes, 0.0));
}

std::tuple<at::Tensor, at::Tensor> sigmoid_focal_loss_sum_cpu(
    const at::Tensor& logits,
    const at::Tensor& targets,
    const at::Tensor& scale,
    double gamma,
    double alpha,
    bool with_grad
) {
  check_memory(focal_loss_sizes_fit(logits, targets, scale), "sigmoid_focal_loss_sum");
  const at::Tensor x = logits.contiguous();
  const at::Tensor labels = targets.to(at::kLong).contiguous();
  at::Tensor loss = at::empty({}, scale.options());
  at::Tensor grad = with_grad ? at::empty_like(x) : at::empty({0}, x.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "sigmoid_focal_loss_sum_cpu", [&] {
        using math_t = at::opmath_type<scalar_t>;
        const math_t factor = *scale.const_data_ptr<math_t>();
        // The sums of the blocks are added in double, so that no digits are lost.
        std::vector<double> sums((x.numel() + kBlock - 1) / kBlock);
        scalar_t* out = with_grad ? grad.mutable_data_ptr<scalar_t>() : nullptr;
        for_each_block<scalar_t>(
            x, labels, gamma, alpha, [&](int64_t first, int64_t n, math_t* losses, math_t* derivative) {
              sums[first / kBlock] = sum_of(losses, n);
              for (int64_t i = 0; out != nullptr && i < n; ++i) {
                out[first + i] = static_cast<scalar_t>(factor * derivative[i]);
              }
            }
        );
        *loss.mutable_data_ptr<math_t>() =
            static_cast<math_t>(std::accumulate(sums.begin(), sums.end(), 0.0) * factor);
      }
  );
  return {loss, grad};
}

void scale_gradient_cpu_(at::Tensor gradient, const at::Tensor& factor) {
  if (factor.item().toDouble() != 1) {
    gradient.mul_(factor);
  }
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CPU, m) {
  m.impl("sigmoid_focal_loss_sum", &sigmoid_focal_loss_sum_cpu);
  m.impl("scale_gradient_", &scale_gradient_cpu_);
}

} // namespace fcos_core
