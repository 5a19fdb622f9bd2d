#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "kernels/adamw.h"

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

TEST(AdamW, KeepsMastersOfBf16AndCountsWhatRoundingHides) {
  OptimConfig config;
  config.lr = 1e-5;  // a bf16 number near 1 moves in steps of 4e-3 or 8e-3
  const NamedParameter weight = trained("weight", at::ones({4, 64}, at::kBFloat16));
  AdamW optimizer(config, {weight});
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

TEST(AdamW, GradientsOfBf16WeightsAddUpInFloat32) {
  constexpr int64_t kRows = 128;
  const at::Tensor x = random_tensor({kRows, 32}, 1, at::kBFloat16),
                   away = random_tensor({kRows, 16}, 2, at::kBFloat16);
  const at::Tensor exact = at::mm((away.to(at::kDouble) + 1).t(), x.to(at::kDouble)) / kRows;
  // The gradient of a mean over rows, in micro-batches of so many.
  const auto relative_error = [&](int64_t rows) {
    const NamedParameter weight = trained("weight", random_tensor({16, 32}, 3, at::kBFloat16));
    AdamW optimizer({}, {weight});
    for (int64_t first = 0; first < kRows; first += rows) {
      const at::Tensor y = at::mm(x.narrow(0, first, rows), weight.tensor.t());
      (y * (away.narrow(0, first, rows) + 1)).sum().div(kRows).backward();
    }
    const at::Tensor grad = weight.tensor.grad();
    EXPECT_EQ(grad.scalar_type(), at::kFloat);
    const double error = (grad.to(at::kDouble) - exact).norm().item<double>() / exact.norm().item<double>();
    optimizer.step(1.0);
    EXPECT_EQ(optimizer.num_steps(), 1);
    return error;
  };
  EXPECT_LT(relative_error(kRows), 4e-3);  // one rounding to bf16
  EXPECT_LT(relative_error(1), 4e-3);      // 128 of them, which average out; a bf16 sum would be 1e-2 off
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

/// Parameters that joined late have a step count, and hence a bias correction, of their own.
TEST(AdamW, IsTheKernelWithEachParametersOwnStep) {
  OptimConfig config;
  config.weight_decay = 0.05;
  const NamedParameters parameters = {trained("a", random_tensor({30, 31}, 3)), trained("b", random_tensor({5, 6}, 4)),
                                      trained("c", random_tensor({50}, 5, at::kBFloat16))};
  AdamW optimizer(config, parameters);
  std::vector<kernels::AdamWTensors> apart;
  for (const NamedParameter& parameter : parameters) {
    const at::Tensor copy = parameter.tensor.detach().clone(), zeros = at::zeros(copy.sizes());
    apart.push_back({.masters = {copy.scalar_type() == at::kFloat ? copy : copy.to(at::kFloat)},
                     .exp_avgs = {zeros.clone()},
                     .exp_avg_sqs = {zeros.clone()},
                     .parameters = {copy},
                     .grads = {}});
  }
  for (int64_t step = 1; step <= 3; ++step) {
    for (size_t i = 0; i < 3; ++i) {
      if (i == 1 && step == 1) continue;
      const at::Tensor& tensor = parameters[i].tensor;
      set_grad(parameters[i], random_tensor(tensor.sizes(), 10 * i + step, tensor.scalar_type()));
      apart[i].grads = {tensor.grad()};
      kernels::adamw_(apart[i], {.lr = config.lr * 0.5,
                                 .beta1 = config.beta1,
                                 .beta2 = config.beta2,
                                 .eps = config.eps,
                                 .weight_decay = tensor.dim() > 1 ? 0.05 : 0,
                                 .grad_scale = 0.7,
                                 .step = i == 1 ? step - 1 : step});
    }
    optimizer.step(0.5, 0.7);
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(parameters[i].tensor.detach(), apart[i].parameters[0])) << i;
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

TEST(AdamW, AnUpdateWithoutAnyGradientIsNoStep) {
  AdamW optimizer({}, {trained("weight", at::ones({4}))});
  optimizer.step(1.0);
  EXPECT_EQ(optimizer.num_steps(), 0);
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
    EXPECT_TRUE(at::equal(first.state().tensors[0].tensor, second.state().tensors[0].tensor));
  }
}

TEST(AdamW, RefusesAStateThatDoesNotFit) {
  AdamW optimizer({}, {trained("w", at::ones({2, 3}))});
  State state = optimizer.state();
  state.tensors[0].tensor = at::zeros({3, 2});
  try {
    optimizer.load_state(state, "optimizer.safetensors");
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(), "optimizer.safetensors: tensor 'w.exp_avg' has shape [3, 2], expected [2, 3]");
  }
  state = optimizer.state();
  state.tensors.push_back({"x.exp_avg", at::zeros({1})});
  EXPECT_THROW(optimizer.load_state(state, "f"), BadInput);
  state.tensors.resize(2);
  EXPECT_THROW(optimizer.load_state(state, "f"), BadInput);
}

}  // namespace
}  // namespace unigrpo::optim
