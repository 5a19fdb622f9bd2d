#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "optim/elementwise.h"

namespace unigrpo::optim {
namespace {

at::Tensor random_tensor(at::IntArrayRef shape, uint64_t seed, at::ScalarType type = at::kFloat) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  RandomStream stream({.seed = seed});
  float* values = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(stream.normal());
  return tensor.to(type);
}

NamedParameter trained(std::string name, at::Tensor tensor) {
  tensor.set_requires_grad(true);
  return {std::move(name), std::move(tensor)};
}

void set_grad(const NamedParameter& parameter, at::Tensor grad) {
  at::Tensor tensor = parameter.tensor;
  tensor.mutable_grad() = std::move(grad);
}

// AdamW as its paper writes it, in double.
struct Reference {
  double lr, beta1, beta2, eps, weight_decay;
  std::vector<double> p, m, v;
  int step = 0;

  void update(const std::vector<double>& grad) {
    ++step;
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] -= lr * weight_decay * p[i];
      m[i] = beta1 * m[i] + (1 - beta1) * grad[i];
      v[i] = beta2 * v[i] + (1 - beta2) * grad[i] * grad[i];
      const double m_hat = m[i] / (1 - std::pow(beta1, step));
      const double v_hat = v[i] / (1 - std::pow(beta2, step));
      p[i] -= lr * m_hat / (std::sqrt(v_hat) + eps);
    }
  }
};

std::vector<double> to_doubles(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.detach().to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

class AdamWKernels : public ::testing::TestWithParam<UpdateKernel> {};
INSTANTIATE_TEST_SUITE_P(Both, AdamWKernels, ::testing::Values(UpdateKernel::automatic, UpdateKernel::library));

TEST_P(AdamWKernels, FollowsThePaperOverTenSteps) {
  const OptimConfig config{
      .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .groups = {}, .ema = {}};
  const NamedParameter weight = trained("weight", random_tensor({7, 11}, 1));
  Reference reference{1e-2, 0.9, 0.99, 1e-8, 0.1, to_doubles(weight.tensor), {}, {}};
  reference.m.assign(77, 0);
  reference.v.assign(77, 0);
  AdamW optimizer(config, {weight}, GetParam());
  for (uint64_t step = 0; step < 10; ++step) {
    const at::Tensor grad = random_tensor({7, 11}, 100 + step);
    set_grad(weight, grad * 4);
    optimizer.step(1.0, 0.25);
    reference.update(to_doubles(grad));
  }
  const std::vector<double> found = to_doubles(weight.tensor);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], reference.p[i], 2e-6);  // float32, 10 steps
}

TEST_P(AdamWKernels, KeepsMastersOfBf16AndCountsWhatRoundingHides) {
  OptimConfig config;
  config.lr = 1e-5;  // a bf16 number near 1 moves in steps of 4e-3 or 8e-3
  const NamedParameter weight = trained("weight", at::ones({4, 64}, at::kBFloat16));
  AdamW optimizer(config, {weight}, GetParam());
  StepStats stats;
  for (int step = 0; step < 300; ++step) {
    set_grad(weight, at::ones({4, 64}, at::kBFloat16));
    stats = optimizer.step(1.0);
    if (step == 0) {
      EXPECT_EQ(stats.num_lost, 256);
      EXPECT_EQ(stats.lost_ratio(), 1.0);
    }
  }
  EXPECT_EQ(stats.num_bf16, 256);
  const at::Tensor master = optimizer.masters().front().tensor;
  EXPECT_NEAR(master.min().item<double>(), 1 - 300 * 1e-5, 1e-5);
  EXPECT_TRUE(at::equal(weight.tensor.detach(), master.to(at::kBFloat16)));
  EXPECT_LT(weight.tensor.max().item<double>(), 1.0);  // small updates added up in the master
}

TEST(AdamW, OwnLoopsAgreeWithTheLibrary) {
  OptimConfig config;
  config.weight_decay = 0.05;
  const NamedParameters ours = {trained("a", random_tensor({300, 301}, 3)),
                                trained("b", random_tensor({50}, 4, at::kBFloat16))};
  const NamedParameters theirs = {trained("a", ours[0].tensor.detach().clone()),
                                  trained("b", ours[1].tensor.detach().clone())};
  AdamW with_loops(config, ours);
  AdamW with_library(config, theirs, UpdateKernel::library);
  for (uint64_t step = 0; step < 3; ++step) {
    for (size_t i = 0; i < 2; ++i) {
      const at::Tensor grad = random_tensor(ours[i].tensor.sizes(), 10 + step, ours[i].tensor.scalar_type());
      set_grad(ours[i], grad);
      set_grad(theirs[i], grad.clone());
    }
    const StepStats a = with_loops.step(0.5, 0.7);
    const StepStats b = with_library.step(0.5, 0.7);
    EXPECT_EQ(a.num_updated, b.num_updated);
    EXPECT_NEAR(a.lost_ratio(), b.lost_ratio(), 0.05);
  }
  const NamedParameters mine = with_loops.masters();
  const NamedParameters other = with_library.masters();
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(at::allclose(mine[i].tensor, other[i].tensor, 1e-6, 1e-7));
}

TEST(AdamW, GivesTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> results;
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    const NamedParameter weight = trained("weight", random_tensor({333, 1001}, 5));
    AdamW optimizer({}, {weight});
    for (uint64_t step = 0; step < 2; ++step) {
      set_grad(weight, random_tensor({333, 1001}, 20 + step));
      optimizer.step(1.0);
    }
    results.push_back(weight.tensor.detach());
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(results[0], results[1]));
}

TEST(AdamW, FirstGroupThatFitsDecidesAndVectorsAreNotDecayed) {
  OptimConfig config;
  config.lr = 1e-3;
  config.weight_decay = 0.5;
  config.groups = {{.pattern = "*moe_gen*", .lr = 1e-1, .weight_decay = 0.25}, {.pattern = "layers.*", .lr = 1e-2}};
  const NamedParameters parameters = {
      trained("layers.0.moe_gen.weight", at::ones({2, 2})), trained("layers.0.weight", at::ones({2, 2})),
      trained("layers.0.bias", at::ones({2})), trained("head.weight", at::ones({2, 2}))};
  AdamW optimizer(config, parameters);
  for (const NamedParameter& parameter : parameters) set_grad(parameter, at::zeros_like(parameter.tensor));
  optimizer.step(1.0);
  EXPECT_FLOAT_EQ(parameters[0].tensor.max().item<float>(), 1 - 0.1F * 0.25F);
  EXPECT_FLOAT_EQ(parameters[1].tensor.max().item<float>(), 1 - 1e-2F * 0.5F);
  EXPECT_FLOAT_EQ(parameters[2].tensor.max().item<float>(), 1);
  EXPECT_FLOAT_EQ(parameters[3].tensor.max().item<float>(), 1 - 1e-3F * 0.5F);
  ASSERT_EQ(optimizer.groups().size(), 3);
  EXPECT_EQ(optimizer.groups()[1].num_parameters, 2);
  EXPECT_EQ(optimizer.groups()[1].num_elements, 6);
}

TEST(AdamW, RefusesAPatternThatFitsNothing) {
  OptimConfig config;
  config.groups = {{.pattern = "*moe_gne*", .lr = 1e-3}};
  try {
    AdamW optimizer(config, {trained("layers.0.moe_gen.weight", at::ones({2, 2}))});
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("optim.groups[0].pattern: '*moe_gne*'"), std::string::npos);
  }
}

TEST(AdamW, LeavesParametersWithoutGradientAlone) {
  const NamedParameters parameters = {trained("a", at::ones({2, 2})), trained("b", at::ones({2, 2}))};
  AdamW optimizer({}, parameters);
  set_grad(parameters[0], at::ones({2, 2}));
  EXPECT_EQ(optimizer.step(1.0).num_updated, 4);
  EXPECT_LT(parameters[0].tensor.max().item<float>(), 1);
  EXPECT_EQ(parameters[1].tensor.min().item<float>(), 1);
  optimizer.zero_grad();
  EXPECT_FALSE(parameters[0].tensor.grad().defined());
}

TEST(AdamW, ContinuesBitForBitFromItsState) {
  const auto grads = [](uint64_t step, at::ScalarType type) { return random_tensor({9, 9}, 40 + step, type); };
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const NamedParameter straight = trained("w", random_tensor({9, 9}, 6, type));
    AdamW first({}, {straight});
    for (uint64_t step = 0; step < 2; ++step) {
      set_grad(straight, grads(step, type));
      first.step(1.0);
    }
    const NamedParameter resumed = trained("w", straight.tensor.detach().clone());
    AdamW second({}, {resumed});
    second.load_state(first.state(), "optimizer.safetensors");
    for (uint64_t step = 2; step < 4; ++step) {
      set_grad(straight, grads(step, type));
      set_grad(resumed, grads(step, type));
      first.step(1.0);
      second.step(1.0);
    }
    EXPECT_TRUE(at::equal(straight.tensor.detach(), resumed.tensor.detach()));
    EXPECT_TRUE(at::equal(first.state()[0].tensor, second.state()[0].tensor));
  }
}

TEST(AdamW, RefusesAStateThatDoesNotFit) {
  AdamW optimizer({}, {trained("w", at::ones({2, 3}))});
  NamedParameters state = optimizer.state();
  state[0].tensor = at::zeros({3, 2});
  try {
    optimizer.load_state(state, "optimizer.safetensors");
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(), "optimizer.safetensors: tensor 'w.exp_avg' has shape [3, 2], expected [2, 3]");
  }
  state = optimizer.state();
  state.push_back({"x.exp_avg", at::zeros({1})});
  EXPECT_THROW(optimizer.load_state(state, "f"), BadInput);
  state.resize(2);
  EXPECT_THROW(optimizer.load_state(state, "f"), BadInput);
}

TEST(AdamW, RoundsMastersAsTheLibraryDoes) {
  // Halfway cases, tiny and huge numbers: one step with gradient 0 writes the bf16 of the master.
  const at::Tensor masters =
      at::cat({random_tensor({1000}, 7), at::tensor({1.00390625F, 1.01171875F, -1e-40F, 3.3e38F})});
  at::Tensor narrowed = at::zeros({masters.numel()}, at::kBFloat16);
  at::Tensor copy = masters.clone();
  const at::Tensor zero = at::zeros_like(narrowed);
  at::Tensor exp_avg = at::zeros_like(masters), exp_avg_sq = at::zeros_like(masters);
  adamw_update_bf16({.eps = 1e-8F}, static_cast<size_t>(masters.numel()),
                    static_cast<const uint16_t*>(zero.const_data_ptr()),
                    static_cast<uint16_t*>(narrowed.mutable_data_ptr()), copy.mutable_data_ptr<float>(),
                    exp_avg.mutable_data_ptr<float>(), exp_avg_sq.mutable_data_ptr<float>());
  EXPECT_TRUE(at::equal(narrowed, masters.to(at::kBFloat16)));
}

}  // namespace
}  // namespace unigrpo::optim
