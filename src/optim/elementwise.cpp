#include "optim/elementwise.h"

#include <array>
#include <bit>
#include <cmath>

namespace unigrpo::optim {
namespace {

inline float widen(float value) { return value; }
inline float widen(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

inline uint16_t narrow(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40U;
  return static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
}

// Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), with s for grad_scale:
//
//   m <- m + (1 - beta1) (s g - m)          v <- beta2 v + (1 - beta2) (s g)^2
//   p <- p (1 - lr wd) - lr / (1 - beta1^t) * m / ( sqrt(v) / sqrt(1 - beta2^t) + eps )
inline float adamw_element(const AdamWScalars& s, float grad, float parameter, float& exp_avg, float& exp_avg_sq) {
  const float g = grad * s.grad_scale;
  const float m = exp_avg + s.one_minus_beta1 * (g - exp_avg);
  const float v = s.beta2 * exp_avg_sq + s.one_minus_beta2 * (g * g);
  exp_avg = m;
  exp_avg_sq = v;
  const float denominator = std::sqrt(v) * s.inverse_sqrt_correction + s.eps;
  return parameter * s.decay - s.step_size * (m / denominator);
}

// Eight running sums: enough for the vector units, and one order whatever the machine.
template <typename T>
double sum_of_squares_of(const T* values, size_t size) {
  constexpr size_t kLanes = 8;
  std::array<double, kLanes> sums{};
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const double value = widen(values[i + lane]);
      sums[lane] += value * value;
    }
  }
  for (; i < size; ++i) {
    const double value = widen(values[i]);
    sums[i % kLanes] += value * value;
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

template <typename T>
void ema_update_of(float rate, size_t size, const T* __restrict value, float* __restrict average) {
  for (size_t i = 0; i < size; ++i) average[i] += rate * (widen(value[i]) - average[i]);
}

}  // namespace

void adamw_update(const AdamWScalars& scalars, size_t size, const float* __restrict grad, float* __restrict parameter,
                  float* __restrict exp_avg, float* __restrict exp_avg_sq) {
  const AdamWScalars s = scalars;
  for (size_t i = 0; i < size; ++i) {
    parameter[i] = adamw_element(s, grad[i], parameter[i], exp_avg[i], exp_avg_sq[i]);
  }
}

int64_t adamw_update_bf16(const AdamWScalars& scalars, size_t size, const uint16_t* __restrict grad,
                          uint16_t* __restrict parameter, float* __restrict master, float* __restrict exp_avg,
                          float* __restrict exp_avg_sq) {
  const AdamWScalars s = scalars;
  uint32_t lost = 0;  // callers hand in chunks far below 2^32
  for (size_t i = 0; i < size; ++i) {
    master[i] = adamw_element(s, widen(grad[i]), master[i], exp_avg[i], exp_avg_sq[i]);
    const uint16_t narrowed = narrow(master[i]);
    lost += static_cast<uint32_t>(narrowed == parameter[i]) & static_cast<uint32_t>(exp_avg[i] != 0);
    parameter[i] = narrowed;
  }
  return lost;
}

double sum_of_squares(const float* values, size_t size) { return sum_of_squares_of(values, size); }

double sum_of_squares_bf16(const uint16_t* values, size_t size) { return sum_of_squares_of(values, size); }

void ema_update(float rate, size_t size, const float* value, float* average) {
  ema_update_of(rate, size, value, average);
}

void ema_update_bf16(float rate, size_t size, const uint16_t* value, float* average) {
  ema_update_of(rate, size, value, average);
}

}  // namespace unigrpo::optim
