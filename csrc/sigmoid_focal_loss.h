#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fcos_core {

// The functions of the loss. Those of float have no branch and call no library, so that a loop over them
// becomes vector instructions; what they lose is below 4 units in the last place.

// exp(-x) for x >= 0.
C10_HOST_DEVICE inline double exp_of_minus(double x) {
  return std::exp(-x);
}

C10_HOST_DEVICE inline float exp_of_minus(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * -1.44269504f));
  return result;
#else
  // exp(-x) = 2^-n exp(r) with n the whole number nearest to x / ln 2, which an addition rounds it to, and
  // |r| <= ln 2 / 2, where exp(r) = 1 + r + r^2 P(r); P minimises the largest error (Remez). Below 2^-126 the
  // result stays there.
  constexpr float kRound = 12582912.0f; // 1.5 * 2^23
  x = x < 87.0f ? x : 87.0f;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (n * 0.693359375f - x) - n * 2.12194440e-4f; // ln 2 in two parts, n times the first is exact
  float p = 1.394111366e-3f;
  p = p * r + 8.363175255e-3f;
  p = p * r + 4.166637525e-2f;
  p = p * r + 0.1666657701f;
  p = p * r + 0.5000000027f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (127 - (bits - 0x4B400000)) << 23; // 2^-n: n is what the lowest bits of 1.5 * 2^23 + n count
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return (1.0f + (r + r * r * p)) * power;
#endif
}

C10_HOST_DEVICE inline double multiply_add(double a, double b, double c) {
  return a * b + c;
}

C10_HOST_DEVICE inline float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return fmaf(a, b, c); // the operators are compiled without contraction, which NMS must not have
#else
  return a * b + c;
#endif
}

// a + log(1 + x) for 0 <= x <= 1.
C10_HOST_DEVICE inline double plus_log1p(double a, double x) {
  return a + std::log1p(x);
}

C10_HOST_DEVICE inline float plus_log1p(float a, float x) {
  // log(1 + x) = x P(x), P the polynomial of least relative error (Remez)
  float p = 5.23269411e-3f;
  p = multiply_add(p, x, -2.950523728e-2f);
  p = multiply_add(p, x, 7.822594782e-2f);
  p = multiply_add(p, x, -0.136632453f);
  p = multiply_add(p, x, 0.1910600644f);
  p = multiply_add(p, x, -0.2484298211f);
  p = multiply_add(p, x, 0.3331909679f);
  p = multiply_add(p, x, -0.4999949314f);
  p = multiply_add(p, x, 0.9999999699f);
  return multiply_add(x, p, a);
}

C10_HOST_DEVICE inline double reciprocal(double x) {
  return 1.0 / x;
}

C10_HOST_DEVICE inline float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}

// The focal loss of one logit x, with p = sigmoid(x):
//   positive: alpha (1 - p)^gamma softplus(-x)        negative: (1 - alpha) p^gamma softplus(x)
// The negative is the positive at -x under the other weight, so one formula of the logit y of the true answer
// serves:
//   loss = weight * q^gamma * softplus(-y), q = 1 - sigmoid(y) = exp(-softplus(y)).
// exp(-|y|) never overflows, and q^gamma as an exponential has no 0 to divide by in its derivative.
template <typename T>
struct FocalLoss {
  // loss = weight * modulation * cross_entropy, d loss / d y = -weight * modulation * slope
  struct Value {
    T modulation;
    T cross_entropy;
    T slope;
  };

  T gamma;
  T alpha;

  C10_HOST_DEVICE T weight(bool positive) const {
    return positive ? alpha : T(1) - alpha;
  }

  // d loss / d x = weight_of_slope * modulation * slope
  C10_HOST_DEVICE T weight_of_slope(bool positive) const {
    return positive ? -alpha : T(1) - alpha;
  }

  // kSquare: gamma is 2, and the power a product.
  template <bool kSquare>
  C10_HOST_DEVICE C10_ALWAYS_INLINE Value at(T x, bool positive) const {
    const T y = positive ? x : -x;
    const T e = exp_of_minus(std::abs(y));
    const T cross_entropy = plus_log1p(y > T(0) ? T(0) : -y, e);
    const T larger = reciprocal(T(1) + e);
    const T smaller = e * larger;
    const T p = y > T(0) ? larger : smaller;
    const T q = y > T(0) ? smaller : larger;
    const T modulation = kSquare ? q * q : exp_of_minus(gamma * plus_log1p(y > T(0) ? y : T(0), e));
    return {modulation, cross_entropy, multiply_add(gamma * p, cross_entropy, q)};
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

// `scale` of sigmoid_focal_loss_sum and `factor` of scale_gradient_: a number of the precision that sums have.
inline void check_focal_loss_scale(const char* name, const at::Tensor& scale, const at::Tensor& logits) {
  const at::ScalarType wanted = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(
      scale.dim() == 0 && scale.scalar_type() == wanted && scale.device() == logits.device(),
      name,
      " must be a scalar tensor of ",
      wanted,
      " on ",
      logits.device(),
      ", it is ",
      scale.sizes(),
      " ",
      scale.scalar_type(),
      " on ",
      scale.device(),
      "."
  );
}

} // namespace fcos_core
