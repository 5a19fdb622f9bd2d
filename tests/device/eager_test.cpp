// What bench_device compares with computes what the policy computes.
#include "bench/eager.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "bench/prompts.h"
#include "policy/load.h"
#include "support/tensors.h"
#include "support/tiny_bagel.h"
#include "tensor/convert.h"

namespace unigrpo::bench {
namespace {

using testing::close;

constexpr int64_t kRows = 3;

class EagerModel : public ::testing::Test {
 protected:
  void SetUp() override {
    past = eager.past(kRows, kPromptTokens + 2);
    const at::NoGradGuard no_grad;
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t k = 0; k < kPromptTokens; ++k) ids.push_back((7 * i + 3 * k) % model->tokenizer().vocab_size());
    }
    eager.read(tensor::index_tensor(ids).view({kRows, kPromptTokens}), past);
  }

  const std::unique_ptr<policy::Bagel> model = testing::tiny_bagel();
  const Eager eager{*model, policy::read_sizes(UNIGRPO_TEST_DATA "/bagel_tiny").llm};
  Eager::Past past;
  std::vector<policy::Context> contexts = read_prompts(*model, kRows);
};

TEST_F(EagerModel, DecodesThePolicysLogits) {
  const at::NoGradGuard no_grad;
  std::vector<policy::Context*> rows;
  for (policy::Context& context : contexts) rows.push_back(&context);
  for (const int64_t id : {5, 9}) {
    const at::Tensor ours = model->append_text(rows, std::vector<std::vector<int64_t>>(kRows, {id}));
    const at::Tensor ids = at::full({kRows, 1}, id, at::kLong);
    EXPECT_TRUE(close(eager.logits(eager.read(ids, past).select(1, 0)), ours, 1e-4, 1e-4));
  }
}

TEST_F(EagerModel, DenoisesWithThePolicysVelocity) {
  const at::NoGradGuard no_grad;
  std::vector<const policy::Context*> rows;
  for (const policy::Context& context : contexts) rows.push_back(&context);
  const policy::LatentGrid grid = model->grid_for(64);
  const at::Tensor x = tensor::normal({kRows, grid.num_tokens(), model->latent_channels()}, {.seed = 3});
  const at::Tensor t = at::tensor({0.9F, 0.5F, 0.1F});
  const auto& special = model->tokenizer().special_tokens();
  const at::Tensor boundary = tensor::index_tensor({special.at("<|vision_start|>"), special.at("<|vision_end|>")});
  const at::Tensor ours = model->denoise(rows, grid)->velocity(x, t);
  EXPECT_TRUE(close(eager.velocity(x, t, grid, boundary, past), ours, 1e-4, 1e-4));
}

TEST_F(EagerModel, GivesTheGradientToTheWeightsThatItUses) {
  auto none = eager.past(kRows, 0);
  eager.read(at::ones({kRows, 4}, at::kLong), none).square().sum().backward();
  EXPECT_TRUE(testing::parameter(*model, "language_model.model.layers.0.self_attn.q_proj.weight").grad().defined());
  EXPECT_GT(eager.weights().size(), 10U);
}

}  // namespace
}  // namespace unigrpo::bench
