#include "grpo/image_loss.h"

#include <limits>
#include <stdexcept>

#include "support/tensors.h"

namespace unigrpo::grpo {
namespace {

using unigrpo::testing::close;
using unigrpo::testing::gradient_is_right;

ImageBatch batch() {
  at::manual_seed(4);
  const at::Tensor log_probs = at::randn({5, 3}, at::kDouble);
  return {.log_probs = log_probs,
          .old_log_probs = log_probs + 0.002 * at::randn({5, 3}, at::kDouble),
          .mask = at::rand({5, 3}) > 0.2,
          .advantages = at::randn({5}, at::kDouble) * 4,
          .step_weights = at::rand({5, 3}, at::kDouble) + 0.5,
          .penalty = at::rand({5, 3}, at::kDouble)};
}

ImageBatch rows(const ImageBatch& all, int64_t first, int64_t count) {
  const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, first, count); };
  return {.log_probs = part(all.log_probs),
          .old_log_probs = part(all.old_log_probs),
          .mask = part(all.mask),
          .advantages = part(all.advantages),
          .step_weights = part(all.step_weights),
          .penalty = part(all.penalty)};
}

TEST(ImageLoss, MicroBatchesAddUpToTheGlobalBatch) {
  const ImageBatch all = batch();
  const ImageLossConfig config{.weight = 0.5, .clip_range = 1e-3, .penalty_weight = 0.1};
  ActionCounts counts;
  for (int64_t row = 0; row < 5; ++row) {
    const ImageBatch one = rows(all, row, 1);
    counts += count_actions(one.mask, one.step_weights);
  }
  const ImageLoss whole = image_loss(config, all);
  at::Tensor total = at::zeros({}, at::kDouble);
  at::Tensor clip_fraction = total, ratio_mean = total;
  for (int64_t row = 0; row < 5; ++row) {
    const ImageLoss part = image_loss(config, rows(all, row, 1), counts);
    total = total + part.total;
    clip_fraction = clip_fraction + part.clip_fraction;
    ratio_mean = ratio_mean + part.ratio_mean;
  }
  EXPECT_TRUE(close(total, whole.total, 1e-12));
  EXPECT_TRUE(close(clip_fraction, whole.clip_fraction, 1e-12));
  EXPECT_TRUE(close(ratio_mean, whole.ratio_mean, 1e-12));
  EXPECT_TRUE(close(whole.total, 0.5 * whole.loss + 0.1 * whole.penalty, 1e-12));
}

TEST(ImageLoss, TheScaleOfTheStepWeightsDoesNotMatter) {
  ImageBatch scaled = batch();
  const at::Tensor loss = image_loss({}, scaled).loss;
  scaled.step_weights = scaled.step_weights * 7;
  EXPECT_TRUE(close(image_loss({}, scaled).loss, loss, 1e-12));
  scaled.step_weights = at::full_like(scaled.step_weights, 3.0);
  const at::Tensor uniform = image_loss({}, scaled).loss;
  scaled.step_weights = at::Tensor();
  EXPECT_TRUE(close(image_loss({}, scaled).loss, uniform, 1e-12));
}

TEST(ImageLoss, RatioNormTakesItsOwnLogRatios) {
  ImageBatch all = batch();
  const ImageLossConfig config{.clip_range = 0.1, .ratio_norm = true};
  EXPECT_THROW(image_loss(config, all), std::invalid_argument);
  all.log_ratios = at::full({5, 3}, 0.05, at::kDouble);
  const ImageLoss loss = image_loss(config, all);
  EXPECT_NEAR(loss.ratio_mean.item<double>(), std::exp(0.05), 1e-12);
  EXPECT_NEAR(loss.plain_ratio_mean.item<double>(), 1.0, 0.01);
  EXPECT_TRUE(gradient_is_right(
      [&](const at::Tensor& log_ratios) {
        ImageBatch changed = all;
        changed.log_ratios = log_ratios;
        return image_loss(config, changed).total;
      },
      all.log_ratios));
}

TEST(ImageLoss, TheClipFractionCountsWhatTheClipHoldsBack) {
  // Ratios above, below and within the range, under advantages of both signs and none.
  const at::Tensor log_probs = at::tensor({1.5, 0.5, 1.0}, at::kDouble).log().expand({3, 3}).contiguous();
  const ImageBatch all{.log_probs = log_probs,
                       .old_log_probs = at::zeros_like(log_probs),
                       .mask = at::ones({3, 3}, at::kBool),
                       .advantages = at::tensor({1.0, -1.0, 0.0}, at::kDouble)};
  const ImageLoss loss = image_loss({.clip_range = 0.1}, all);
  EXPECT_NEAR(loss.clip_fraction.item<double>(), 2.0 / 9, 1e-12);
  EXPECT_NEAR(loss.outside_clip_range.item<double>(), 6.0 / 9, 1e-12);
}

TEST(ImageLoss, GradientsAreRight) {
  const ImageBatch all = batch();
  EXPECT_TRUE(gradient_is_right(
      [&](const at::Tensor& log_probs) {
        ImageBatch changed = all;
        changed.log_probs = log_probs;
        return image_loss({.clip_range = 1e-3}, changed).total;
      },
      all.log_probs));
  EXPECT_TRUE(gradient_is_right(
      [&](const at::Tensor& penalty) {
        ImageBatch changed = all;
        changed.penalty = penalty;
        return image_loss({.penalty_weight = 0.3}, changed).total;
      },
      all.penalty));
}

TEST(ImageLoss, WhatIsMaskedOutMayHoldAnything) {
  const ImageBatch clean = batch();
  ImageBatch dirty = clean;
  const at::Tensor padding = clean.mask.logical_not();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  dirty.log_probs = clean.log_probs.masked_fill(padding, nan).requires_grad_();
  dirty.penalty = clean.penalty.masked_fill(padding, nan);
  dirty.step_weights = clean.step_weights.masked_fill(padding, 1.0 / 0.0);
  const ImageLoss loss = image_loss({}, dirty);
  EXPECT_TRUE(close(loss.total, image_loss({}, clean).total, 1e-14));
  EXPECT_TRUE(torch::autograd::grad({loss.total}, {dirty.log_probs}).at(0).isfinite().all().item<bool>());
}

}  // namespace
}  // namespace unigrpo::grpo
