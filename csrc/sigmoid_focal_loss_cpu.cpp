#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>

#include "sigmoid_focal_loss.h"

namespace fcos_core {
namespace {

constexpr int64_t kElementsPerTask = 4096;

// Calls value(row, column, is_positive) for every element of the rows that are not ignored, and writes 0 in
// the others.
template <typename scalar_t, typename Value>
void fill_rows(at::Tensor& out, const at::Tensor& targets, const Value& value) {
  const int64_t columns = out.size(1);
  const int64_t* label = targets.const_data_ptr<int64_t>();
  scalar_t* result = out.mutable_data_ptr<scalar_t>();
  const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / columns);
  at::parallel_for(0, out.size(0), rows_per_task, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        result[row * columns + column] =
            static_cast<scalar_t>(label[row] < 0 ? 0 : value(row, column, label[row] == column + 1));
      }
    }
  });
}

at::Tensor sigmoid_focal_loss_cpu(
    const at::Tensor& logits, const at::Tensor& targets, double gamma, double alpha
) {
  check_focal_loss_inputs(logits, targets, gamma, alpha);
  const at::Tensor x = logits.contiguous();
  const at::Tensor labels = targets.to(at::kLong).contiguous();
  at::Tensor losses = at::empty_like(x);
  if (x.numel() == 0) {
    return losses;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "sigmoid_focal_loss_cpu", [&] {
    using math_t = at::opmath_type<scalar_t>;
    const FocalLoss<math_t> focal{static_cast<math_t>(gamma), static_cast<math_t>(alpha)};
    const scalar_t* logit = x.const_data_ptr<scalar_t>();
    const int64_t columns = x.size(1);
    fill_rows<scalar_t>(losses, labels, [&](int64_t row, int64_t column, bool positive) -> math_t {
      return focal.loss(static_cast<math_t>(logit[row * columns + column]), positive);
    });
  });
  return losses;
}

at::Tensor sigmoid_focal_loss_backward_cpu(
    const at::Tensor& grad, const at::Tensor& logits, const at::Tensor& targets, double gamma, double alpha
) {
  check_focal_loss_inputs(logits, targets, gamma, alpha);
  check_focal_loss_grad(grad, logits);
  const at::Tensor x = logits.contiguous();
  const at::Tensor labels = targets.to(at::kLong).contiguous();
  at::Tensor result = at::empty_like(x);
  if (x.numel() == 0) {
    return result;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "sigmoid_focal_loss_backward_cpu", [&] {
        using math_t = at::opmath_type<scalar_t>;
        const FocalLoss<math_t> focal{static_cast<math_t>(gamma), static_cast<math_t>(alpha)};
        const scalar_t* logit = x.const_data_ptr<scalar_t>();
        const int64_t columns = x.size(1);
        // grad is read through its strides: after .sum() it is one number expanded, and a copy would cost a
        // whole tensor
        const scalar_t* upstream = grad.const_data_ptr<scalar_t>();
        const int64_t row_stride = grad.stride(0);
        const int64_t column_stride = grad.stride(1);
        fill_rows<scalar_t>(result, labels, [&](int64_t row, int64_t column, bool positive) -> math_t {
          const auto g = static_cast<math_t>(upstream[row * row_stride + column * column_stride]);
          return g * focal.derivative(static_cast<math_t>(logit[row * columns + column]), positive);
        });
      }
  );
  return result;
}

} // namespace

TORCH_LIBRARY_IMPL(fcos_core, CPU, m) {
  m.impl("sigmoid_focal_loss", &sigmoid_focal_loss_cpu);
  m.impl("sigmoid_focal_loss_backward", &sigmoid_focal_loss_backward_cpu);
}

} // namespace fcos_core
