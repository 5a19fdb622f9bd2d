// Sampling and training see the same numbers: what the shipped model decodes over a cache, row by row, and what the
// packed update recomputes.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "grpo/update.h"
#include "optim/adamw.h"
#include "policy/bagel/bagel.h"
#include "support/tiny_rollout.h"

namespace unigrpo::grpo {
namespace {

using testing::kImage;
using testing::kText;

TEST(SameBits, RolloutAndUpdateAgreeInEveryTurn) {
  policy::PolicyConfig policy_config;
  policy_config.model = std::string(UNIGRPO_SOURCE_DIR) + "/assets/shapes-base";
  const auto model = policy::Bagel::load(policy_config, {});
  rollout::RolloutConfig config = testing::tiny_rollout();
  config.episode = {kText, kImage, kText, kImage};
  config.max_tokens = 40;
  config.temperature = 1.5;  // unlikely tokens and texts of other lengths, so that few rows are left at their end
  const auto prompts = testing::prompts({"a red circle", "two squares beside a blue star", "a star"});
  const auto all = rollout::RolloutEngine(*model, config, {.seed = 3}, "").rollout(testing::request(prompts, 12));

  const optim::OptimConfig optim_config;
  optim::AdamW optimizer(optim_config, {});
  optim::GradClip clip(optim_config);
  const GrpoConfig grpo;
  const LogProbNoise noise = measure_log_prob_noise(
      {.policy = *model, .optimizer = optimizer, .clip = clip, .config = grpo, .rollout = config}, all);
  const bool exact =
      at::get_cpu_capability().starts_with("AVX");  // kernels/linear.cpp knows those instructions' products
  EXPECT_LE(noise.text, exact ? 0 : 1e-5);
  EXPECT_LE(noise.image, exact ? 0 : 1e-5);
}

}  // namespace
}  // namespace unigrpo::grpo
