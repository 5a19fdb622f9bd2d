#include "rollout/text_decoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/sample_tokens.h"

namespace unigrpo::rollout {
namespace {

at::Tensor logits_of(const std::vector<double>& probabilities) {
  return at::tensor(probabilities, at::kDouble).log().to(at::kFloat).unsqueeze(0);
}

/// The ids that may be drawn from the first row.
std::vector<int64_t> kept(const at::Tensor& logits, const Truncation& truncation, double temperature = 1.0) {
  const at::Tensor out = truncated(logits, temperature, truncation)[0];
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < out.size(0); ++i) {
    const auto value = out[i].item<float>();
    if (!std::isinf(value)) {
      EXPECT_EQ(value, logits[0][i].item<float>());
      ids.push_back(i);
    }
  }
  return ids;
}

using Ids = std::vector<int64_t>;

// Worked out by hand from transformers' TopKLogitsWarper, TopPLogitsWarper and MinPLogitsWarper
// (generation/logits_process.py of 5.24), which stand in this order behind the temperature's.
TEST(Truncated, EachRuleKeepsWhatTransformersKeeps) {
  const at::Tensor logits = logits_of({0.1, 0.5, 0.15, 0.25});
  EXPECT_EQ(kept(logits, {}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept(logits, {.top_k = 2}), (Ids{1, 3}));
  EXPECT_EQ(kept(logits, {.top_k = 9}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept(logits, {.top_p = 0.7}), (Ids{1, 3}));     // 0.5, and 0.25 passes 0.7
  EXPECT_EQ(kept(logits, {.top_p = 0.8}), (Ids{1, 2, 3}));  // 0.75 does not yet
  EXPECT_EQ(kept(logits, {.top_p = 0}), (Ids{1}));          // one always stays
  EXPECT_EQ(kept(logits, {.min_p = 0.4}), (Ids{1, 3}));     // at least 0.2
  EXPECT_EQ(kept(logits, {.min_p = 1}), (Ids{1}));
}

TEST(Truncated, EqualsAtTheBorderOfTopKStay) {
  EXPECT_EQ(kept(at::tensor({1.0F, 1.0F, 0.0F, 1.0F}).unsqueeze(0), {.top_k = 2}), (Ids{0, 1, 3}));
}

TEST(Truncated, TheTemperatureComesFirstThenTopKThenTopPThenMinP) {
  const at::Tensor logits = logits_of({0.1, 0.5, 0.15, 0.25});
  // At temperature 1/2 the probabilities are as 0.01 : 0.25 : 0.0225 : 0.0625, the largest 0.72.
  EXPECT_EQ(kept(logits, {.top_p = 0.7}, 0.5), (Ids{1}));
  EXPECT_EQ(kept(logits, {.min_p = 0.4}, 0.5), (Ids{1}));
  EXPECT_EQ(kept(logits, {.top_p = 0.55}), (Ids{1, 3}));
  EXPECT_EQ(kept(logits, {.top_k = 3, .top_p = 0.55}), (Ids{1}));  // of 0.9 the largest is 0.556
  EXPECT_EQ(kept(logits, {.top_k = 3, .top_p = 0.84, .min_p = 0.4}), (Ids{1, 3}));
}

TEST(Truncated, ARowDependsOnItselfAloneAndOnlyTheKeptAreDrawn) {
  const at::Tensor both = at::cat({logits_of({0.1, 0.5, 0.15, 0.25}), logits_of({0.97, 0.01, 0.01, 0.01})}, 0);
  const Truncation cut{.top_k = 3, .top_p = 0.7};
  const at::Tensor out = truncated(both, 1.0, cut);
  EXPECT_TRUE(at::equal(out.narrow(0, 0, 1), truncated(both.narrow(0, 0, 1), 1.0, cut)));
  EXPECT_TRUE(at::equal(out.narrow(0, 1, 1), truncated(both.narrow(0, 1, 1), 1.0, cut)));
  // Of the first row 1 and 3 are left, as 2 : 1.
  const auto drawn = [&](double uniform) {
    return kernels::sample_tokens(out, at::tensor({uniform, 0.999}, at::kDouble), 1.0);
  };
  EXPECT_EQ(drawn(0.0)[0].item<int64_t>(), 1);
  EXPECT_EQ(drawn(0.66)[0].item<int64_t>(), 1);
  EXPECT_EQ(drawn(0.67)[0].item<int64_t>(), 3);
  EXPECT_EQ(drawn(0.999)[0].item<int64_t>(), 3);
  EXPECT_EQ(drawn(0.5)[1].item<int64_t>(), 0);
}

}  // namespace
}  // namespace unigrpo::rollout
