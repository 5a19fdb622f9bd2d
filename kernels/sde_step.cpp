#include "kernels/sde_step.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <array>
#include <cmath>
#include <numbers>

#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

constexpr int64_t kElementsATask = 8192;

void check_inputs(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& other,
                  const at::Tensor& coefficients) {
  TORCH_CHECK(x.dim() >= 1, "x needs a batch axis");
  TORCH_CHECK(x.sizes() == velocity.sizes() && x.sizes() == other.sizes(),
              "x, velocity and noise (or x_next) must have one shape, got ", x.sizes(), ", ", velocity.sizes(), ", ",
              other.sizes());
  TORCH_CHECK(x.scalar_type() == velocity.scalar_type() && x.scalar_type() == other.scalar_type(),
              "x, velocity and noise (or x_next) must have one dtype");
  TORCH_CHECK(coefficients.scalar_type() == at::kDouble && coefficients.dim() == 2 &&
                  coefficients.size(0) == x.size(0) && coefficients.size(1) == 3,
              "coefficients must be [B, 3] float64, got ", coefficients.sizes());
  TORCH_CHECK(x.device() == velocity.device() && x.device() == other.device() && x.device() == coefficients.device(),
              "x, velocity, noise (or x_next) and coefficients must be on one device");
}

/// Column `index` of coefficients [B, 3], shaped to multiply x [B, ...] in its dtype.
at::Tensor column(const at::Tensor& coefficients, int64_t index, const at::Tensor& x) {
  std::vector<int64_t> shape(x.dim(), 1);
  shape[0] = x.size(0);
  return coefficients.select(1, index).to(x.scalar_type()).view(shape);
}

at::Tensor mean_of(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& coefficients) {
  return column(coefficients, 0, x) * x + column(coefficients, 1, x) * velocity;
}

/// Finishes a row's log-prob from its sum of squares over `count` elements.
double finish(double sum_of_squares, int64_t count, double std, bool gaussian) {
  const double mean_square = sum_of_squares / static_cast<double>(count);
  if (!gaussian) return -mean_square;
  return -mean_square / (2 * std * std) - std::log(std) - 0.5 * std::log(2 * std::numbers::pi);
}

/// Runs body(i) for i < count and adds up what it returns, always in the same order.
template <typename T, typename Body>
double sum_over(int64_t count, const Body& body) {
  double total = 0;
  constexpr int64_t kBlock = 1024;  // float lanes are emptied into the double before they lose digits
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t stop = std::min(start + kBlock, count);
    std::array<T, kLanes> lanes{};
    int64_t i = start;
    for (; i + kLanes <= stop; i += kLanes) {
      for (int64_t k = 0; k < kLanes; ++k) lanes[k] += body(i + k);
    }
    for (; i < stop; ++i) lanes[0] += body(i);
    for (const T lane : lanes) total += lane;
  }
  return total;
}

/// Runs body(row, first element) for the rows of x [B, ...], in tasks of like size.
template <typename Body>
void for_rows(const at::Tensor& x, const Body& body) {
  const int64_t rows = x.size(0), count = rows == 0 ? 0 : x.numel() / rows;
  at::parallel_for(0, rows, std::max<int64_t>(1, kElementsATask / std::max<int64_t>(1, count)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t row = begin; row < end; ++row) body(row, row * count);
                   });
}

/// A row's log-prob; mean(i): of element i.
template <typename T, typename Mean>
T row_log_prob(const T* next, int64_t count, double std, bool gaussian, const Mean& mean) {
  const double sum = sum_over<T>(count, [&](int64_t i) {
    const T off = next[i] - mean(i);
    return off * off;
  });
  return static_cast<T>(finish(sum, count, std, gaussian));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> sde_step_cpu(const at::Tensor& x_in, const at::Tensor& velocity_in,
                                                            const at::Tensor& noise_in,
                                                            const at::Tensor& coefficients_in, bool gaussian) {
  const at::Tensor x = x_in.contiguous(), velocity = velocity_in.contiguous(), noise = noise_in.contiguous(),
                   coefficients = coefficients_in.contiguous();
  at::Tensor x_next = at::empty_like(x), mean = at::empty_like(x), log_prob = at::empty({x.size(0)}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sde_step", [&] {
    for_rows(x, [&](int64_t row, int64_t first) {
      const int64_t count = x.numel() / x.size(0);
      const double* c = coefficients.const_data_ptr<double>() + 3 * row;
      const auto c_x = static_cast<scalar_t>(c[0]), c_v = static_cast<scalar_t>(c[1]),
                 std = static_cast<scalar_t>(c[2]);
      const scalar_t* px = x.const_data_ptr<scalar_t>() + first;
      const scalar_t* pv = velocity.const_data_ptr<scalar_t>() + first;
      const scalar_t* pn = noise.const_data_ptr<scalar_t>() + first;
      scalar_t* __restrict__ p_mean = mean.mutable_data_ptr<scalar_t>() + first;
      scalar_t* __restrict__ p_next = x_next.mutable_data_ptr<scalar_t>() + first;
      for (int64_t i = 0; i < count; ++i) {
        p_mean[i] = c_x * px[i] + c_v * pv[i];
        p_next[i] = p_mean[i] + std * pn[i];
      }
      // From the rounded x_next, not from the noise: training only has x_next.
      log_prob.mutable_data_ptr<scalar_t>()[row] =
          row_log_prob(p_next, count, c[2], gaussian, [&](int64_t i) { return p_mean[i]; });
    });
  });
  return {x_next, mean, log_prob};
}

at::Tensor sde_log_prob_cpu(const at::Tensor& x_in, const at::Tensor& velocity_in, const at::Tensor& x_next_in,
                            const at::Tensor& coefficients_in, bool gaussian) {
  const at::Tensor x = x_in.contiguous(), velocity = velocity_in.contiguous(), x_next = x_next_in.contiguous(),
                   coefficients = coefficients_in.contiguous();
  at::Tensor log_prob = at::empty({x.size(0)}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sde_log_prob", [&] {
    for_rows(x, [&](int64_t row, int64_t first) {
      const double* c = coefficients.const_data_ptr<double>() + 3 * row;
      const auto c_x = static_cast<scalar_t>(c[0]), c_v = static_cast<scalar_t>(c[1]);
      const scalar_t* px = x.const_data_ptr<scalar_t>() + first;
      const scalar_t* pv = velocity.const_data_ptr<scalar_t>() + first;
      log_prob.mutable_data_ptr<scalar_t>()[row] =
          row_log_prob(x_next.const_data_ptr<scalar_t>() + first, x.numel() / x.size(0), c[2], gaussian,
                       [&](int64_t i) { return c_x * px[i] + c_v * pv[i]; });
    });
  });
  return log_prob;
}

/// d log_prob / d v = c_v (x_next - mean) / (count s^2), and 2 c_v (x_next - mean) / count for cps.
at::Tensor velocity_gradient(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& x_next,
                             const at::Tensor& coefficients, bool gaussian, const at::Tensor& grad_log_prob) {
  const at::Tensor c_v = column(coefficients, 1, x), std = column(coefficients, 2, x);
  const auto count = static_cast<double>(x.size(0) == 0 ? 1 : x.numel() / x.size(0));
  const at::Tensor weight = gaussian ? c_v / (std * std * count) : c_v * (2 / count);
  return (x_next - column(coefficients, 0, x) * x - c_v * velocity) * (weight * grad_log_prob.view(c_v.sizes()));
}

class SdeLogProb : public torch::autograd::Function<SdeLogProb> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& velocity,
                            const at::Tensor& x_next, const at::Tensor& coefficients, bool gaussian) {
    context->save_for_backward({x, velocity, x_next, coefficients});
    context->saved_data["gaussian"] = gaussian;
    return call<&sde_log_prob_cpu>("sde_log_prob", x, velocity, x_next, coefficients, gaussian);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    return {
        at::Tensor(),
        velocity_gradient(saved[0], saved[1], saved[2], saved[3], context->saved_data["gaussian"].toBool(), grads[0]),
        at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def(
      "sde_step(Tensor x, Tensor velocity, Tensor noise, Tensor coefficients, bool gaussian)"
      " -> (Tensor x_next, Tensor mean, Tensor log_prob)");
  m.def(
      "sde_log_prob(Tensor x, Tensor velocity, Tensor x_next, Tensor coefficients, bool gaussian)"
      " -> Tensor");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) {
  m.impl("sde_step", &sde_step_reference);
  m.impl("sde_log_prob", &sde_log_prob_reference);
}
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) {
  m.impl("sde_step", &sde_step_cpu);
  m.impl("sde_log_prob", &sde_log_prob_cpu);
}
TORCH_LIBRARY_IMPL(unigrpo, Autograd, m) { m.impl("sde_log_prob", gradient<SdeLogProb>(&sde_log_prob_cpu)); }

std::tuple<at::Tensor, at::Tensor, at::Tensor> sde_step_reference(const at::Tensor& x, const at::Tensor& velocity,
                                                                  const at::Tensor& noise,
                                                                  const at::Tensor& coefficients, bool gaussian) {
  const at::Tensor mean = mean_of(x, velocity, coefficients), x_next = mean + column(coefficients, 2, x) * noise;
  return {x_next, mean, sde_log_prob_reference(x, velocity, x_next, coefficients, gaussian)};
}

at::Tensor sde_log_prob_reference(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& x_next,
                                  const at::Tensor& coefficients, bool gaussian) {
  const int64_t count = x.size(0) == 0 ? 0 : x.numel() / x.size(0);
  const at::Tensor off = x_next - mean_of(x, velocity, coefficients);
  const at::Tensor mean_square = off.to(at::kDouble).reshape({x.size(0), count}).square().mean(1);  // [B]
  const at::Tensor std = coefficients.select(1, 2);
  const at::Tensor log_prob =
      gaussian ? -mean_square / (2 * std.square()) - std.log() - 0.5 * std::log(2 * std::numbers::pi) : -mean_square;
  return log_prob.to(x.scalar_type());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> sde_step(const at::Tensor& x, const at::Tensor& velocity,
                                                        const at::Tensor& noise, const at::Tensor& coefficients,
                                                        bool gaussian) {
  check_inputs(x, velocity, noise, coefficients);
  const at::NoGradGuard no_grad;
  return call<&sde_step_cpu>("sde_step", x, velocity, noise, coefficients, gaussian);
}

at::Tensor sde_log_prob(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& x_next,
                        const at::Tensor& coefficients, bool gaussian) {
  check_inputs(x, velocity, x_next, coefficients);
  return call<&sde_log_prob_cpu>("sde_log_prob", x, velocity, x_next, coefficients, gaussian);
}

}  // namespace unigrpo::kernels
