#include "nn/sharded_step.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <tuple>
#include <vector>

#include "parallel/sharded_model.h"
#include "support/ranks.h"
#include "support/tensors.h"

namespace unigrpo::nn {
namespace {

using parallel::ShardedModel;

/// A root and two layers of a weight each.
struct Model {
  std::vector<NamedTensors> units;
  int runs = 0;

  Model() {
    units.push_back({{"root", at::ones({8}).requires_grad_()}});
    for (int layer = 0; layer < 2; ++layer) {
      at::Tensor weight = (at::arange(64, at::kFloat) * (0.3 + layer)).sin().view({8, 8}).requires_grad_();
      units.push_back({{"layer", weight}});
    }
  }
  const at::Tensor& weight(size_t layer) const { return units[layer + 1].front().tensor; }
  /// at::linear keeps the weight transposed for its backward pass.
  PairStep step(size_t layer) {
    return [this, layer](const at::Tensor& a, const at::Tensor& b) {
      ++runs;
      return std::pair(a + at::tanh(at::linear(a, weight(layer))), b + at::linear(b, weight(layer)).mean());
    };
  }
};

TEST(ShardedStep, WeightsAreGoneBetweenThePassesAndGradientsAreThoseOfOneProcess) {
  const at::Tensor a = (at::arange(24, at::kFloat) * 0.7).cos().view({3, 8}), b = at::ones({2, 8});
  Model plain;
  std::pair<at::Tensor, at::Tensor> wanted = {a, b};
  for (const size_t layer : {0, 1}) wanted = plain.step(layer)(wanted.first, wanted.second);
  (wanted.first.square().sum() + wanted.second.sum()).backward();

  const auto errors = test::run_ranks(2, [&](parallel::Comm& comm) {
    Model model;
    const std::shared_ptr<parallel::Comm> ranks(&comm, [](parallel::Comm*) {});
    ShardedModel sharded(model.units, {.shard = ranks, .replica = nullptr}, parallel::Shard::weights,
                         parallel::Reduce::each);
    sharded.begin(/*with_backward=*/true);
    std::pair<at::Tensor, at::Tensor> x = {a, b};
    at::Storage storage;  // of the first layer's weights
    for (const size_t layer : {0, 1}) {
      const auto step = [&](const at::Tensor& und, const at::Tensor& gen) {
        if (layer == 0) storage = model.weight(0).storage();
        return model.step(layer)(und, gen);
      };
      x = sharded_step(step, x.first, x.second, {.model = &sharded, .unit = layer + 1});
    }
    EXPECT_TRUE(model.weight(0).isnan().all().item<bool>());
    EXPECT_EQ(storage.nbytes(), 0U);
    EXPECT_TRUE(at::equal(x.first, wanted.first));
    (x.first.square().sum() + x.second.sum()).backward();
    EXPECT_EQ(storage.nbytes(), 0U);
    sharded.end();
    EXPECT_EQ(model.runs, 2);
    sharded.finish_gradients();
    // All of a small layer is the first rank's.
    if (comm.rank() != 0) return;
    std::vector<at::Tensor> gradients;
    for (const NamedTensor& piece : sharded.pieces()) {
      if (piece.name == "layer") gradients.push_back(piece.tensor.grad());
    }
    ASSERT_EQ(gradients.size(), 2U);
    for (const size_t layer : {0, 1}) {
      EXPECT_TRUE(testing::close(gradients[layer].view({8, 8}), 2 * plain.weight(layer).grad(), 1e-5)) << layer;
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(ShardedStep, WithoutGradientsItIsTheStep) {
  const at::NoGradGuard no_grad;
  const auto out = sharded_step([](const at::Tensor& x, const at::Tensor& y) { return std::pair(x + 1, y); },
                                at::ones({1}).requires_grad_(), at::ones({1}), {});
  EXPECT_FALSE(out.first.grad_fn());
  EXPECT_EQ(out.first.item<float>(), 2);
}

}  // namespace
}  // namespace unigrpo::nn
