#include "nn/encoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::nn {
namespace {

constexpr int64_t kWidth = 8;

Encoder tiny(Activation activation) {
  Weights weights("test", [seed = uint64_t{0}](const std::string& name, const std::vector<int64_t>& shape) mutable {
    const at::Tensor noise = tensor::normal(shape, {.seed = ++seed}) * 0.3;
    return name.find("norm") != std::string::npos && name.ends_with(".weight") ? noise + 1 : noise;
  });
  const EncoderConfig config{
      .hidden_size = kWidth, .intermediate_size = 12, .num_layers = 2, .num_heads = 2, .activation = activation};
  return {config, "tower", weights};
}

TEST(Encoder, CausalTokensDoNotSeeWhatFollows) {
  const Encoder encoder = tiny(Activation::gelu);
  const at::Tensor x = tensor::normal({2, 5, kWidth}, {.seed = 9});
  const at::Tensor whole = encoder(x, /*causal=*/true), front = encoder(x.narrow(1, 0, 3), /*causal=*/true);
  EXPECT_TRUE(at::allclose(whole.narrow(1, 0, 3), front, 1e-5, 1e-6));  // float32, other shapes of the products
  EXPECT_FALSE(at::allclose(encoder(x).narrow(1, 0, 3), front, 1e-2, 1e-2));
}

TEST(Encoder, TheActivationsAreThreeFunctions) {
  const at::Tensor x = tensor::normal({1, 4, kWidth}, {.seed = 9});
  const at::Tensor exact = tiny(Activation::gelu)(x);
  for (const Activation other : {Activation::gelu_tanh, Activation::quick_gelu}) {
    const at::Tensor approximate = tiny(other)(x);
    EXPECT_FALSE(at::equal(approximate, exact));
    EXPECT_TRUE(at::allclose(approximate, exact, 0, 0.1));  // both approximate GELU, to 0.02 an element of an MLP
  }
}

}  // namespace
}  // namespace unigrpo::nn
