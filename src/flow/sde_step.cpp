#include "flow/sde_step.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <numbers>
#include <stdexcept>
#include <utility>

#include "kernels/sde_step.h"
#include "tensor/device.h"
#include "tensor/shape.h"

namespace unigrpo::flow {

TimeSpans::TimeSpans(at::Tensor from, at::Tensor to, double max)
    : t(std::move(from)), t_next(std::move(to)), t_max(max) {}
TimeSpans::TimeSpans(const TimeSpan& span)
    : TimeSpans(at::full({1}, span.t, at::kDouble), at::full({1}, span.t_next, at::kDouble), span.t_max) {}

namespace {

using tensor::at_least_float32;
using tensor::check_same_shape;
using tensor::check_shape;

bool is_gaussian(const SdeConfig& config) { return config.kind != SdeKind::cps; }

void check_spans(const SdeConfig& config, const TimeSpans& spans) {
  check_shape(spans.t, {-1}, "t [B]");
  check_same_shape(spans.t, "t [B]", spans.t_next, "t_next [B]");
  const bool level_fits = config.noise_level > 0 && (config.kind != SdeKind::cps || config.noise_level <= 1);
  if (!level_fits) {
    throw std::invalid_argument(fmt::format("noise_level {} of {} must be above 0{}", config.noise_level,
                                            enum_name(config.kind),
                                            config.kind == SdeKind::cps ? " and at most 1" : ""));
  }
  if (!spans.t.is_cpu()) return;  // no synchronisation with a device for a check
  const at::Tensor t = spans.t.to(at::kDouble).contiguous();
  const at::Tensor t_next = spans.t_next.to(at::kDouble).contiguous();
  for (int64_t i = 0; i < t.numel(); ++i) {
    const double from = t.const_data_ptr<double>()[i];
    const double to = t_next.const_data_ptr<double>()[i];
    if (!(0 <= to && to < from && from <= 1)) {
      throw std::invalid_argument(fmt::format("a step needs 0 <= t_next < t <= 1, got t {} and t_next {}", from, to));
    }
    if (config.kind == SdeKind::flow_sde && from == 1 && !(spans.t_max > 0 && spans.t_max < 1)) {
      throw std::invalid_argument(
          fmt::format("a flow_sde step from t = 1 needs t_max between 0 and 1, got {}", spans.t_max));
    }
  }
}

/// Column `index` of coefficients [B, 3], shaped to multiply x [B, ...] in its dtype.
at::Tensor column(const at::Tensor& coefficients, int64_t index, const at::Tensor& x) {
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape[0] = x.size(0);
  return coefficients.select(1, index).to(x.scalar_type()).view(shape);
}

/// Mean over all axes but the first. [B, ...] -> [B]
at::Tensor mean_elements(const at::Tensor& values) { return values.flatten(1).mean(1); }

struct Inputs {
  at::Tensor x, velocity, coefficients;
};

/// Coefficients beside x. One row for all is written there rather than sent, so that a denoising loop copies nothing.
at::Tensor coefficients_beside(const at::Tensor& x, const SdeConfig& config, const TimeSpans& spans) {
  const at::Tensor host = sde_coefficients(config, spans, x.size(0));
  if (spans.t.numel() != 1 || !host.is_cpu() || x.is_cpu()) return tensor::sent(host, x.device());
  std::vector<at::Tensor> columns;
  for (int64_t i = 0; i < 3; ++i) {
    columns.push_back(at::full({x.size(0)}, host[0][i].item<double>(), host.options().device(x.device())));
  }
  return at::stack(columns, 1);
}

Inputs prepare(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity, const TimeSpans& spans) {
  check_same_shape(x, "x [B, L, D]", velocity, "velocity [B, L, D]");
  return {at_least_float32(x), at_least_float32(velocity), coefficients_beside(x, config, spans)};
}

}  // namespace

// With a the noise level and delta = t' - t < 0, the three kinds are
//
//   flow_sde  sigma = a sqrt(t / (1 - t)), where at t = 1 the t inside 1 - t is t_max
//             mean  = x (1 + sigma^2 / (2t) delta) + v (1 + sigma^2 (1 - t) / (2t)) delta
//             std   = sigma sqrt(-delta)
//   cps       std   = t' sin(a pi / 2)
//             mean  = (1 - t') (x - t v) + sqrt(t'^2 - std^2) (x + (1 - t) v)
//   dance     std   = a sqrt(-delta)
//             mean  = x + v delta - a^2/2 score delta,   score = -(x - (1 - t)(x - t v)) / t^2
//                   = x (1 + a^2 / (2t) delta) + v (1 + a^2 (1 - t) / (2t)) delta
//
// since x - (1 - t)(x - t v) = t x + t (1 - t) v: dance is flow_sde with the constant sigma = a.
at::Tensor sde_coefficients(const SdeConfig& config, const TimeSpans& spans, int64_t rows) {
  check_spans(config, spans);
  if (spans.t.numel() != 1) check_shape(spans.t, {rows}, "t [B]");
  const at::Tensor t = spans.t.to(at::kDouble);            // [B]
  const at::Tensor t_next = spans.t_next.to(at::kDouble);  // [B]
  if (config.kind == SdeKind::cps) {
    const double share = std::sin(config.noise_level * std::numbers::pi / 2);
    const at::Tensor std = t_next * share;
    // sqrt(t'^2 - std^2) in a form that rounding cannot make the root of a negative number.
    const at::Tensor kept = t_next * std::sqrt(std::max(0.0, 1 - share * share));
    return at::stack({(1 - t_next) + kept, kept * (1 - t) - t * (1 - t_next), std}, 1).expand({rows, 3});
  }
  const at::Tensor delta = t_next - t;
  at::Tensor variance = at::full_like(t, config.noise_level * config.noise_level);  // sigma^2
  if (config.kind == SdeKind::flow_sde) {
    const at::Tensor below_one = at::where(t >= 1, at::full_like(t, spans.t_max), t);
    variance = variance * t / (1 - below_one);
  }
  const at::Tensor c_x = 1 + variance / (2 * t) * delta;
  const at::Tensor c_v = (1 + variance * (1 - t) / (2 * t)) * delta;
  return at::stack({c_x, c_v, (variance * -delta).sqrt()}, 1).expand({rows, 3});
}

SdeMean sde_mean(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity, const TimeSpans& spans) {
  const Inputs in = prepare(config, x, velocity, spans);
  return {.mean = column(in.coefficients, 0, in.x) * in.x + column(in.coefficients, 1, in.x) * in.velocity,
          .std = in.coefficients.select(1, 2).to(in.x.scalar_type())};
}

SdeStep sde_step(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& noise,
                 const TimeSpans& spans) {
  check_same_shape(x, "x [B, L, D]", noise, "noise [B, L, D]");
  const Inputs in = prepare(config, x, velocity, spans);
  const at::Tensor std = in.coefficients.select(1, 2).to(in.x.scalar_type());  // [B]
  const bool wants_gradient =
      at::GradMode::is_enabled() && (x.requires_grad() || velocity.requires_grad() || noise.requires_grad());
  const auto step = wants_gradient ? kernels::sde_step_reference : kernels::sde_step;
  const auto [x_next, mean, log_prob] =
      step(in.x, in.velocity, noise.to(in.x.scalar_type()), in.coefficients, is_gaussian(config));
  return {x_next, mean, std, log_prob};
}

at::Tensor sde_log_prob(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity,
                        const at::Tensor& x_next, const TimeSpans& spans) {
  check_same_shape(x, "x [B, L, D]", x_next, "x_next [B, L, D]");
  const Inputs in = prepare(config, x, velocity, spans);
  return kernels::sde_log_prob(in.x, in.velocity, x_next.to(in.x.scalar_type()), in.coefficients, is_gaussian(config));
}

// With m and m' the old and new mean, d = m' - m = c_v (v' - v) and o = x_next - m:
//
//   (x_next - m)^2 - (x_next - m')^2 = 2 o d - d^2
//   log ratio = mean_j (2 o d - d^2) / (2 std^2)         (cps: without the division)
//
// so a small change of the mean is not the difference of two large squares.
at::Tensor log_ratio(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity,
                     const at::Tensor& velocity_old, const at::Tensor& x_next, const TimeSpans& spans) {
  check_same_shape(x, "x [B, L, D]", x_next, "x_next [B, L, D]");
  check_same_shape(x, "x [B, L, D]", velocity, "velocity [B, L, D]");
  const Inputs old = prepare(config, x, velocity_old, spans);
  const at::Tensor c_v = column(old.coefficients, 1, old.x);
  const at::Tensor off =
      at_least_float32(x_next) - column(old.coefficients, 0, old.x) * old.x - c_v * old.velocity;  // [B, L, D]
  const at::Tensor shift = c_v * (at_least_float32(velocity) - old.velocity);                      // [B, L, D]
  const at::Tensor gain = mean_elements(shift * (2 * off - shift));                                // [B]
  if (!is_gaussian(config)) return gain;
  return gain / (2 * old.coefficients.select(1, 2).square()).to(gain.scalar_type());
}

// RatioNorm is  std * ( log ratio + mean_j d^2 / (2 std^2) ),  which is
//
//   mean_j n d,    n = (x_next - m) / std   the noise that was drawn,  d = c_v (v' - v)
at::Tensor ratio_norm_log_ratio(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity,
                                const at::Tensor& velocity_old, const at::Tensor& x_next, const TimeSpans& spans) {
  if (!is_gaussian(config)) {
    throw std::invalid_argument("ratio_norm is defined for flow_sde and dance, not for cps");
  }
  check_same_shape(x, "x [B, L, D]", x_next, "x_next [B, L, D]");
  check_same_shape(x, "x [B, L, D]", velocity, "velocity [B, L, D]");
  const Inputs old = prepare(config, x, velocity_old, spans);
  const at::Tensor c_v = column(old.coefficients, 1, old.x);
  const at::Tensor noise =
      (at_least_float32(x_next) - column(old.coefficients, 0, old.x) * old.x - c_v * old.velocity) /
      column(old.coefficients, 2, old.x);  // [B, L, D]
  return mean_elements(noise * c_v * (at_least_float32(velocity) - old.velocity));
}

}  // namespace unigrpo::flow
