#include "grpo/text_loss.h"

#include <limits>
#include <stdexcept>

#include "support/tensors.h"

namespace unigrpo::grpo {
namespace {

using unigrpo::testing::close;
using unigrpo::testing::gradient_is_right;

TextBatch batch(at::ScalarType type = at::kDouble) {
  at::manual_seed(9);
  const auto options = at::TensorOptions().dtype(type);
  const at::Tensor log_probs = -at::rand({6, 7}, options) - 0.1;
  const at::Tensor lengths = at::tensor({7, 1, 4, 0, 3, 6}, at::kLong);
  return {.log_probs = log_probs,
          .old_log_probs = log_probs + 0.3 * at::randn({6, 7}, options),
          .ref_log_probs = log_probs + 0.2 * at::randn({6, 7}, options),
          .mask = at::arange(7).unsqueeze(0) < lengths.unsqueeze(1),
          .advantages = at::randn({6}, options)};
}

TextBatch rows(const TextBatch& all, int64_t first, int64_t count) {
  const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, first, count); };
  return {part(all.log_probs), part(all.old_log_probs), part(all.ref_log_probs), part(all.mask), part(all.advantages)};
}

std::vector<TextLossConfig> all_configs() {
  std::vector<TextLossConfig> configs;
  for (const auto importance : {Importance::token, Importance::sequence, Importance::cispo}) {
    for (const auto aggregation : {Aggregation::token_mean, Aggregation::seq_mean, Aggregation::fixed_length}) {
      for (const auto estimator : {KlEstimator::k1, KlEstimator::k2, KlEstimator::k3}) {
        configs.push_back({.importance = importance,
                           .aggregation = aggregation,
                           .dual_clip = estimator == KlEstimator::k2 ? 3.0 : 0.0,
                           .kl_beta = 0.05,
                           .kl_estimator = estimator,
                           .max_length = 9});
      }
    }
  }
  return configs;
}

TEST(TextLoss, MicroBatchesAddUpToTheGlobalBatch) {
  const TextBatch all = batch();
  ActionCounts counts;  // as summed over micro-batches and ranks
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {1, 3}, {4, 2}}) {
    counts += count_actions(rows(all, first, count).mask);
  }
  EXPECT_EQ(counts.num_actions, 21);
  EXPECT_EQ(counts.num_nonempty_rows, 5);
  EXPECT_EQ(counts.num_rows, 6);
  for (const TextLossConfig& config : all_configs()) {
    const at::Tensor leaf = all.log_probs.clone().requires_grad_();
    TextBatch with_leaf = all;
    with_leaf.log_probs = leaf;
    const TextLoss whole = text_loss(config, with_leaf);
    const at::Tensor whole_gradient = torch::autograd::grad({whole.loss}, {leaf}).at(0);

    at::Tensor loss = at::zeros({}, at::kDouble);
    at::Tensor kl = loss, approx_kl = loss, clip_fraction = loss;
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {1, 3}, {4, 2}}) {
      const TextLoss part = text_loss(config, rows(with_leaf, first, count), counts);
      loss = loss + part.loss;
      kl = kl + part.kl;
      approx_kl = approx_kl + part.approx_kl;
      clip_fraction = clip_fraction + part.clip_fraction;
    }
    EXPECT_TRUE(close(loss, whole.loss, 1e-12));  // float64
    EXPECT_TRUE(close(kl, whole.kl, 1e-12));
    EXPECT_TRUE(close(approx_kl, whole.approx_kl, 1e-12));
    EXPECT_TRUE(close(clip_fraction, whole.clip_fraction, 1e-12));
    EXPECT_TRUE(close(torch::autograd::grad({loss}, {leaf}).at(0), whole_gradient, 1e-12));
  }
}

TEST(TextLoss, GradientsAreRight) {
  const TextBatch all = batch();
  for (const TextLossConfig& config : all_configs()) {
    if (config.importance == Importance::cispo) continue;  // its weight is detached on purpose
    EXPECT_TRUE(gradient_is_right(
        [&](const at::Tensor& log_probs) {
          TextBatch changed = all;
          changed.log_probs = log_probs;
          return text_loss(config, changed).loss;
        },
        all.log_probs));
  }
}

TEST(TextLoss, CispoKeepsTheGradientOfClippedTokens) {
  const TextBatch one{.log_probs = at::full({1, 1}, -0.5).requires_grad_(),
                      .old_log_probs = at::full({1, 1}, -2.0),
                      .mask = at::ones({1, 1}, at::kBool),
                      .advantages = at::ones({1})};
  const auto gradient = [&](Importance importance) {
    return torch::autograd::grad({text_loss({.importance = importance}, one).loss}, {one.log_probs})
        .at(0)
        .item<double>();
  };
  EXPECT_EQ(gradient(Importance::token), 0);
  EXPECT_NEAR(gradient(Importance::cispo), -1.28, 1e-6);
}

TEST(TextLoss, WithUnchangedWeightsIsTheMeanAdvantage) {
  TextBatch all = batch(at::kFloat);
  all.old_log_probs = all.log_probs;
  const TextLoss loss = text_loss({.aggregation = Aggregation::seq_mean}, all);
  const at::Tensor filled = at::tensor({0, 1, 2, 4, 5}, at::kLong);
  EXPECT_NEAR(loss.loss.item<double>(), -all.advantages.index_select(0, filled).mean().item<double>(), 1e-6);
  EXPECT_EQ(loss.clip_fraction.item<double>(), 0);
  EXPECT_EQ(loss.approx_kl.item<double>(), 0);
}

TEST(TextLoss, WhatIsMaskedOutMayHoldAnything) {
  const TextBatch clean = batch();
  TextBatch dirty = clean;
  const at::Tensor padding = clean.mask.logical_not();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  dirty.log_probs = clean.log_probs.masked_fill(padding, nan).requires_grad_();
  dirty.old_log_probs = clean.old_log_probs.masked_fill(padding, -1.0 / 0.0);
  dirty.ref_log_probs = clean.ref_log_probs.masked_fill(padding, nan);
  for (const TextLossConfig& config : all_configs()) {
    const TextLoss loss = text_loss(config, dirty);
    EXPECT_TRUE(close(loss.loss, text_loss(config, clean).loss, 1e-14));
    EXPECT_TRUE(torch::autograd::grad({loss.loss}, {dirty.log_probs}).at(0).isfinite().all().item<bool>());
  }
}

TEST(TextLoss, AnEmptyMicroBatchWeighsNothing) {
  TextBatch all = batch();
  all.mask = at::zeros_like(all.mask);
  all.log_probs = all.log_probs.clone().requires_grad_();
  for (const TextLossConfig& config : all_configs()) {
    EXPECT_EQ(text_loss(config, all).loss.item<double>(), 0);
  }
}

TEST(TextLoss, AnImpossibleOldTokenStaysFinite) {
  TextBatch all = batch(at::kFloat);
  all.old_log_probs = at::full_like(all.old_log_probs, -500);
  all.advantages = at::tensor({0.0, 1.0, -1.0, 0.5, 0.0, -0.5}, at::kFloat);
  for (const TextLossConfig& config : all_configs()) {
    EXPECT_TRUE(text_loss(config, all).loss.isfinite().item<bool>());
  }
}

TEST(TextLoss, RefusesWhatItCannotCompute) {
  TextBatch all = batch();
  all.ref_log_probs = at::Tensor();
  EXPECT_NO_THROW(text_loss({}, all));
  EXPECT_THROW(text_loss({.kl_beta = 0.1}, all), std::invalid_argument);
  EXPECT_THROW(text_loss({.aggregation = Aggregation::fixed_length}, all), std::invalid_argument);
  EXPECT_NO_THROW(text_loss({.aggregation = Aggregation::fixed_length}, all, std::nullopt, 48));
  all.advantages = at::zeros({5});
  EXPECT_THROW(text_loss({}, all), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::grpo
