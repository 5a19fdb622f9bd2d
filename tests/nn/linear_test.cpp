#include "nn/linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::nn {
namespace {

using testing::close;
using testing::message_of;

class LoraLinear : public ::testing::Test {
 protected:
  LoraLinear() {
    layer.weight = tensor::normal({6, 8}, {.seed = 9});
    layer.bias = tensor::normal({6}, {.seed = 10});
    layer.lora = std::make_unique<LoraAdapter>();
    layer.lora->a = tensor::normal({2, 8}, {.seed = 11}).requires_grad_();
    layer.lora->b = tensor::normal({6, 2}, {.seed = 12}).requires_grad_();
    layer.lora->scale = 1.5;
    layer.lora_enabled = &enabled;
  }
  at::Tensor base() const { return at::linear(x, layer.weight, layer.bias); }

  bool enabled = true;
  Linear layer;
  const at::Tensor x = tensor::normal({5, 8}, {.seed = 13});
};

TEST_F(LoraLinear, AddsTheScaledProductOfItsFactors) {
  const at::Tensor merged = layer.weight + 1.5 * at::mm(layer.lora->b, layer.lora->a);
  EXPECT_TRUE(close(layer(x), at::linear(x, merged, layer.bias), 2e-5));
}

TEST_F(LoraLinear, SwitchedOffItIsTheBase) {
  enabled = false;
  EXPECT_TRUE(close(layer(x), base(), 1e-5));
}

TEST_F(LoraLinear, WithBZeroItIsTheBaseAndOnlyBHasAGradient) {
  layer.lora->b = at::zeros({6, 2}).requires_grad_();
  const at::Tensor y = layer(x);
  EXPECT_TRUE(close(y, base(), 1e-5));
  const auto grads = torch::autograd::grad({y.square().sum()}, {layer.lora->a, layer.lora->b});
  EXPECT_EQ(grads[0].abs().max().item<double>(), 0);
  EXPECT_GT(grads[1].abs().max().item<double>(), 0);
}

TEST_F(LoraLinear, SlicesOfItsInputsDropWhatItDrops) {
  LoraDropout dropout{.rate = 0.5, .key = {.seed = 3, .purpose = Purpose::dropout}, .rows = at::arange(5)};
  layer.bias = at::Tensor();
  const at::Tensor want = layer(x, dropout);
  EXPECT_FALSE(close(layer(x), want, 1e-5));
  at::Tensor sum = at::zeros({5, 6});
  dropout.parts = 2;
  for (; dropout.part < 2; ++dropout.part) {
    const int64_t first = 4 * dropout.part;
    Linear slice = layer;
    slice.weight = layer.weight.narrow(1, first, 4).contiguous();
    slice.lora = std::make_shared<LoraAdapter>(*layer.lora);
    slice.lora->a = layer.lora->a.narrow(1, first, 4);
    sum = sum + slice(x.narrow(1, first, 4), dropout);
  }
  EXPECT_TRUE(close(sum, want, 1e-5));
}

TEST_F(LoraLinear, DropoutTakesFromTheAdaptersInputAloneAndKeepsItsMean) {
  layer.name = "q_proj";
  const at::Tensor wide = tensor::normal({20000, 8}, {.seed = 14});
  const LoraDropout dropout{
      .rate = 0.25, .key = {.seed = 3, .purpose = Purpose::dropout}, .rows = at::arange(20000, at::kLong) * 7919};
  const at::Tensor whole = layer(wide), dropped = layer(wide, dropout);
  EXPECT_TRUE(close(layer(wide, dropout), dropped, 0));
  // Each element of the input is kept with probability 3/4 and scaled by 4/3: the mean update stays.
  const at::Tensor base = at::linear(wide, layer.weight, layer.bias);
  const double share =
      ((dropped - base) * (whole - base)).sum().item<double>() / (whole - base).square().sum().item<double>();
  EXPECT_NEAR(share, 1.0, 0.01);
  LoraDropout other = dropout;
  other.key.sample = 1;
  EXPECT_GT((layer(wide, other) - dropped).abs().max().item<double>(), 0.1);
  // A row's mask is its own, wherever it stands.
  const at::Tensor order = at::randperm(20000, at::kLong).narrow(0, 0, 100);
  LoraDropout some = dropout;
  some.rows = dropout.rows.index_select(0, order);
  EXPECT_TRUE(close(layer(wide.index_select(0, order), some), dropped.index_select(0, order), 1e-5));
  layer.name = "k_proj";
  EXPECT_GT((layer(wide, dropout) - dropped).abs().max().item<double>(), 0.1);
  enabled = false;
  EXPECT_TRUE(close(layer(wide, dropout), base, 1e-5));
}

TEST(TakeLinear, NamesTheTensorOfAnotherShape) {
  Weights weights("m/ema.safetensors", std::map<std::string, at::Tensor>{{"q.weight", at::zeros({4, 3})}});
  EXPECT_EQ(message_of<BadInput>([&] { take_linear(weights, "q", 4, 2, false); }),
            "m/ema.safetensors: tensor 'q.weight' has shape [4, 3], the config asks for [4, 2]");
}

}  // namespace
}  // namespace unigrpo::nn
