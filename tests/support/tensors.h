#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <string>

namespace unigrpo::testing {

/// Largest absolute difference, or an explanation where there is none to take.
inline ::testing::AssertionResult close(const at::Tensor& got, const at::Tensor& want, double atol, double rtol = 0) {
  if (!got.defined() || !want.defined()) return ::testing::AssertionFailure() << "undefined";
  if (got.sizes() != want.sizes()) {
    return ::testing::AssertionFailure() << "shape " << got.sizes() << ", expected " << want.sizes();
  }
  const at::Tensor g = got.detach().to(at::kDouble);
  const at::Tensor w = want.detach().to(at::kDouble);
  const at::Tensor bad = at::isclose(g, w, rtol, atol, /*equal_nan=*/true).logical_not();
  if (!bad.any().item<bool>()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << bad.sum().item<int64_t>() << " of " << g.numel() << " elements differ, by "
                                       << (g - w).abs().max().item<double>() << " at most";
}

/// Whether the analytic gradient of sum(weights * f(x)) is the numeric one; x float64.
inline ::testing::AssertionResult gradient_is_right(const std::function<at::Tensor(const at::Tensor&)>& f,
                                                    const at::Tensor& x) {
  const double step = 1e-6;
  const at::Tensor leaf = x.detach().clone().requires_grad_();
  const at::Tensor out = f(leaf);
  const at::Tensor weights = at::linspace(0.5, 1.5, std::max<int64_t>(1, out.numel()), at::kDouble).view(out.sizes());
  const at::Tensor analytic = torch::autograd::grad({(out * weights).sum()}, {leaf}).at(0);
  at::Tensor numeric = at::zeros_like(x);
  const at::NoGradGuard no_grad;
  for (int64_t i = 0; i < x.numel(); ++i) {
    at::Tensor up = x.detach().clone();
    at::Tensor down = x.detach().clone();
    up.view(-1)[i] += step;
    down.view(-1)[i] -= step;
    numeric.view(-1)[i] = ((f(up) - f(down)) * weights).sum() / (2 * step);
  }
  return close(analytic, numeric, 1e-6, 1e-5);  // float64 central differences
}

/// What `call` throws, as text; "nothing" where it does not.
template <typename Exception, typename Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.what();
  }
  return "nothing";
}

}  // namespace unigrpo::testing
