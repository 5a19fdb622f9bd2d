#include "kernels/adamw.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <functional>

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;

/// A parameter and its state at the start; bf16 ones get a master.
AdamWTensors fresh(const at::Tensor& parameter) {
  const bool wide = parameter.scalar_type() == at::kFloat;
  const at::Tensor zeros = at::zeros(parameter.sizes());
  return {.masters = {wide ? parameter : parameter.to(at::kFloat)},
          .exp_avgs = {zeros.clone()},
          .exp_avg_sqs = {zeros.clone()},
          .parameters = {parameter},
          .grads = {}};
}

struct Kernel {
  const char* name;
  int64_t (*update)(const AdamWTensors&, const AdamWStep&);
};
class AdamWKernels : public ::testing::TestWithParam<Kernel> {};
INSTANTIATE_TEST_SUITE_P(Both, AdamWKernels,
                         ::testing::Values(Kernel{"loops", adamw_}, Kernel{"reference", adamw_reference_}),
                         [](const auto& test) { return test.param.name; });

/// AdamW as its paper writes it, in float64.
TEST_P(AdamWKernels, FollowThePaperOverTenSteps) {
  at::manual_seed(1);
  const AdamWStep base{.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .weight_decay = 0.1, .grad_scale = 0.25};
  AdamWTensors tensors = fresh(at::randn({7, 11}));
  at::Tensor p = tensors.parameters[0].to(at::kDouble), m = at::zeros_like(p), v = at::zeros_like(p);
  for (int64_t t = 1; t <= 10; ++t) {
    const at::Tensor grad = at::randn({7, 11}), g = grad.to(at::kDouble);
    p = p - base.lr * base.weight_decay * p;
    m = base.beta1 * m + (1 - base.beta1) * g;
    v = base.beta2 * v + (1 - base.beta2) * g * g;
    const double correction1 = 1 - std::pow(base.beta1, t), correction2 = 1 - std::pow(base.beta2, t);
    p = p - base.lr * (m / correction1) / ((v / correction2).sqrt() + base.eps);
    tensors.grads = {grad * 4};
    AdamWStep step = base;
    step.step = t;
    EXPECT_EQ(GetParam().update(tensors, step), 0);
  }
  EXPECT_TRUE(close(tensors.parameters[0], p, 2e-6));  // float32, 10 steps
}

TEST_P(AdamWKernels, KeepMastersOfBf16AndCountWhatRoundingHides) {
  const at::Tensor weight = at::ones({4, 64}, at::kBFloat16);
  AdamWTensors tensors = fresh(weight);
  tensors.grads = {at::ones({4, 64}, at::kBFloat16)};
  for (int64_t t = 1; t <= 300; ++t) {  // a bf16 number near 1 moves in steps of 4e-3 or 8e-3
    const int64_t lost = GetParam().update(tensors, {.lr = 1e-5, .step = t});
    if (t == 1) {
      EXPECT_EQ(lost, 256);
    }
  }
  EXPECT_NEAR(tensors.masters[0].min().item<double>(), 1 - 300 * 1e-5, 1e-5);
  EXPECT_TRUE(at::equal(weight, tensors.masters[0].to(at::kBFloat16)));
  EXPECT_LT(weight.max().item<double>(), 1.0);  // small updates added up in the master
}

TEST(AdamWKernel, LoopsAgreeWithTheReference) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::manual_seed(3);
    const at::Tensor start = at::randn({300, 301}).to(type);
    AdamWTensors ours = fresh(start.clone()), theirs = fresh(start.clone());
    for (int64_t t = 1; t <= 3; ++t) {
      ours.grads = theirs.grads = {at::randn({300, 301}).to(type)};
      const AdamWStep step{.lr = 5e-4, .weight_decay = 0.05, .grad_scale = 0.7, .step = t};
      EXPECT_NEAR(adamw_(ours, step), adamw_reference_(theirs, step), 0.05 * 90300);
    }
    EXPECT_TRUE(at::allclose(ours.masters[0], theirs.masters[0], 1e-6, 1e-7));
  }
}

/// Each operation rounded by itself, in the order of the equation: the same bits on any machine, whole lanes or not.
TEST(AdamWKernel, HasTheBitsOfTheEquation) {
  at::manual_seed(5);
  const at::Tensor start = at::randn({5003}), grad = at::randn({5003});
  AdamWTensors tensors = fresh(start.clone());
  tensors.grads = {grad};
  adamw_(tensors, {.lr = 0.125, .beta1 = 0.5, .beta2 = 0.75, .eps = 0, .weight_decay = 0.5, .step = 1});
  const at::Tensor m = 0.5 * grad, v = 0.25 * (grad * grad);
  EXPECT_TRUE(at::equal(tensors.exp_avgs[0], m));
  EXPECT_TRUE(at::equal(tensors.exp_avg_sqs[0], v));
  EXPECT_TRUE(at::equal(tensors.parameters[0], start * 0.9375 - 0.25 * (m / (v.sqrt() * 2))));
}

TEST(AdamWKernel, HasTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> results;
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    at::manual_seed(6);
    AdamWTensors tensors = fresh(at::randn({333, 1001}));
    for (int64_t t = 1; t <= 2; ++t) {
      tensors.grads = {at::randn({333, 1001})};
      adamw_(tensors, {.lr = 1e-3, .step = t});
    }
    results.push_back(tensors.parameters[0]);
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(results[0], results[1]));
}

TEST(AdamWKernel, RoundsMastersAsTheLibraryDoes) {
  // Halfway cases, tiny and huge numbers, nan: one step with gradient 0 writes the bf16 of the master.
  at::manual_seed(7);
  AdamWTensors tensors = fresh(at::zeros({1005}, at::kBFloat16));
  tensors.masters[0] =
      at::cat({at::randn({1000}), at::tensor({1.00390625F, 1.01171875F, -1e-40F, 3.3e38F, std::nanf("")})});
  tensors.grads = {at::zeros({1005}, at::kBFloat16)};
  const at::Tensor want = tensors.masters[0].to(at::kBFloat16);
  adamw_(tensors, {});
  EXPECT_TRUE(close(tensors.parameters[0], want, 0));
}

TEST(AdamWKernel, AGraphThatHoldsTheOldValuesNotices) {
  const at::Tensor weight = at::ones({3}).requires_grad_();
  const at::Tensor loss = weight.square().sum();
  AdamWTensors tensors = fresh(weight);
  tensors.grads = {at::ones({3})};
  adamw_(tensors, {.lr = 0.1});
  EXPECT_THROW(loss.backward(), c10::Error);
}

TEST(AdamWKernel, RefusesStateThatDoesNotFit) {
  AdamWTensors tensors = fresh(at::ones({4}));
  tensors.grads = {at::ones({4}, at::kBFloat16)};
  EXPECT_THROW(adamw_(tensors, {}), c10::Error);
  tensors.grads = {at::ones({4})};
  tensors.exp_avgs = {at::zeros({3})};
  EXPECT_THROW(adamw_(tensors, {}), c10::Error);
  EXPECT_EQ(adamw_({}, {}), 0);
}

}  // namespace
}  // namespace unigrpo::kernels
