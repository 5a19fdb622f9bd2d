#pragma once

#include <cstddef>
#include <cstdint>

namespace unigrpo::optim {

/// The loops under AdamW, the gradient norm and the EMA: float32 arithmetic on plain memory, one pass each.
/// An element's result depends on that element alone, so cutting the work differently changes no bit.
/// bf16 numbers are their bits, rounded to nearest even.

/// One AdamW step's constants (float32, worked out in double by the caller).
struct AdamWScalars {
  float grad_scale = 1;  // of clipping
  float decay = 1;       // 1 - lr * weight_decay
  float one_minus_beta1 = 0;
  float beta2 = 0;
  float one_minus_beta2 = 0;
  float step_size = 0;                // lr / (1 - beta1^t)
  float inverse_sqrt_correction = 1;  // 1 / sqrt(1 - beta2^t)
  float eps = 0;
};

void adamw_update(const AdamWScalars& scalars, size_t size, const float* grad, float* parameter, float* exp_avg,
                  float* exp_avg_sq);

/// The same on float32 masters of bf16 parameters. Returns how many elements had an update (exp_avg not
/// zero) that left the bf16 value as it was.
int64_t adamw_update_bf16(const AdamWScalars& scalars, size_t size, const uint16_t* grad, uint16_t* parameter,
                          float* master, float* exp_avg, float* exp_avg_sq);

/// Sum of squares, accumulated in double in a fixed order.
double sum_of_squares(const float* values, size_t size);
double sum_of_squares_bf16(const uint16_t* values, size_t size);

/// average += rate * (value - average).
void ema_update(float rate, size_t size, const float* value, float* average);
void ema_update_bf16(float rate, size_t size, const uint16_t* value, float* average);

}  // namespace unigrpo::optim
