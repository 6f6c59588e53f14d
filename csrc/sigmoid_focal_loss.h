#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>

namespace fcos_core {

// The focal loss of one logit x and its derivative, with p = sigmoid(x):
//   positive: alpha (1 - p)^gamma softplus(-x)        negative: (1 - alpha) p^gamma softplus(x)
// The negative is the positive at -x under the other weight, so one formula of the logit y of the true answer
// serves:
//   loss = weight * q^gamma * softplus(-y), q = 1 - sigmoid(y) = exp(-softplus(y)).
// exp(-|y|) never overflows, and q^gamma as an exponential has no 0 to divide by in its derivative.
template <typename T>
struct FocalLoss {
  T gamma;
  T alpha;

  C10_HOST_DEVICE T loss(T x, bool positive) const {
    const T y = positive ? x : -x;
    const T tail = std::log1p(std::exp(-std::abs(y)));
    const T softplus_y = (y > 0 ? y : T(0)) + tail;
    const T softplus_minus_y = (y > 0 ? T(0) : -y) + tail;
    return weight(positive) * std::exp(-gamma * softplus_y) * softplus_minus_y;
  }

  C10_HOST_DEVICE T derivative(T x, bool positive) const {
    const T y = positive ? x : -x;
    const T e = std::exp(-std::abs(y));
    const T tail = std::log1p(e);
    const T softplus_y = (y > 0 ? y : T(0)) + tail;
    const T softplus_minus_y = (y > 0 ? T(0) : -y) + tail;
    const T p = (y > 0 ? T(1) : e) / (T(1) + e);
    const T q = (y > 0 ? e : T(1)) / (T(1) + e);
    const T by_y = -weight(positive) * std::exp(-gamma * softplus_y) * (q + gamma * p * softplus_minus_y);
    return positive ? by_y : -by_y;
  }

 private:
  C10_HOST_DEVICE T weight(bool positive) const {
    return positive ? alpha : T(1) - alpha;
  }
};

inline void check_focal_loss_inputs(
    const at::Tensor& logits, const at::Tensor& targets, double gamma, double alpha
) {
  TORCH_CHECK(
      logits.dim() == 2, "sigmoid_focal_loss: logits must have shape (N, C), they have ", logits.sizes(), "."
  );
  TORCH_CHECK(
      logits.is_floating_point(),
      "sigmoid_focal_loss: logits must be floating point, they are ",
      logits.scalar_type(),
      "."
  );
  TORCH_CHECK(
      targets.dim() == 1 && targets.size(0) == logits.size(0),
      "sigmoid_focal_loss: targets must have shape (",
      logits.size(0),
      ",), one per row of logits, they have ",
      targets.sizes(),
      "."
  );
  TORCH_CHECK(
      targets.scalar_type() == at::kInt || targets.scalar_type() == at::kLong,
      "sigmoid_focal_loss: targets must be int32 or int64, they are ",
      targets.scalar_type(),
      "."
  );
  TORCH_CHECK(
      targets.device() == logits.device(),
      "sigmoid_focal_loss: logits and targets must be on one device, they are on ",
      logits.device(),
      " and ",
      targets.device(),
      "."
  );
  TORCH_CHECK(gamma >= 0, "sigmoid_focal_loss: gamma must be 0 or greater, it is ", gamma, ".");
  TORCH_CHECK(alpha >= 0 && alpha <= 1, "sigmoid_focal_loss: alpha must lie in [0, 1], it is ", alpha, ".");
}

inline void check_focal_loss_grad(const at::Tensor& grad, const at::Tensor& logits) {
  TORCH_CHECK(
      grad.sizes() == logits.sizes() && grad.scalar_type() == logits.scalar_type() &&
          grad.device() == logits.device(),
      "sigmoid_focal_loss_backward: grad must have the shape, dtype and device of logits, ",
      logits.sizes(),
      " ",
      logits.scalar_type(),
      " on ",
      logits.device(),
      ", it has ",
      grad.sizes(),
      " ",
      grad.scalar_type(),
      " on ",
      grad.device(),
      "."
  );
}

} // namespace fcos_core
