#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fcos_core {

// Elementary functions of the loss. The float versions have no branch and call no library, so that a loop over them
// compiles to vector instructions; their error stays below 4 units in the last place.

// Returns exp(-x) for x >= 0.
C10_HOST_DEVICE inline double exp_of_minus(double x) {
  return std::exp(-x);
}

C10_HOST_DEVICE inline float exp_of_minus(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * -1.44269504f));
  return result;
#else
  // exp(-x) = 2^-n exp(r), where n is the integer nearest to x / ln 2 and |r| <= ln 2 / 2. Adding kRound rounds to
  // this integer. exp(r) = 1 + r + r^2 P(r); the polynomial P minimizes the largest error (Remez). The clamp of x
  // keeps the result at 2^-126 or more.
  constexpr float kRound = 12582912.0f; // 1.5 * 2^23
  x = x < 87.0f ? x : 87.0f;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  // ln 2 is split into two parts, so that n times the first part is exact.
  const float r = (n * 0.693359375f - x) - n * 2.12194440e-4f;
  float p = 1.394111366e-3f;
  p = p * r + 8.363175255e-3f;
  p = p * r + 4.166637525e-2f;
  p = p * r + 0.1666657701f;
  p = p * r + 0.5000000027f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (127 - (bits - 0x4B400000)) << 23; // 2^-n; the lowest bits of `shifted` hold n
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
  return fmaf(a, b, c); // explicit, because csrc/ is compiled without contraction for NMS
#else
  return a * b + c;
#endif
}

// Returns a + log(1 + x) for 0 <= x <= 1.
C10_HOST_DEVICE inline double plus_log1p(double a, double x) {
  return a + std::log1p(x);
}

C10_HOST_DEVICE inline float plus_log1p(float a, float x) {
  // log(1 + x) = x P(x); the polynomial P has the least relative error (Remez).
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
// The negative loss at x is the positive loss at -x with the other weight. So one formula covers both, in the logit y
// of the true answer (x or -x):
//   loss = weight * q^gamma * softplus(-y), q = 1 - sigmoid(y) = exp(-softplus(y)).
// exp(-|y|) never overflows. q^gamma is computed as an exponential, so its derivative never divides by 0.
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

  // kSquare: gamma is 2, so the power is a product.
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

inline bool focal_loss_sizes_fit(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& scale) {
  return logits.dim() == 2 && targets.dim() == 1 && targets.size(0) == logits.size(0) && scale.numel() == 1;
}

} // namespace fcos_core
