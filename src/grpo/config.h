#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "flow/config.h"

namespace unigrpo::grpo {

UNIGRPO_ENUM(Importance, token, sequence, cispo);
UNIGRPO_ENUM(Aggregation, token_mean, seq_mean, fixed_length);
UNIGRPO_ENUM(KlEstimator, k1, k2, k3);
UNIGRPO_ENUM(Normalization, group_std, none, global_std);
UNIGRPO_ENUM(ZeroStd, keep, drop, resample);
UNIGRPO_ENUM(StatisticsOf, group, prompt, running);
UNIGRPO_ENUM(Combine, sum_then_normalize, normalize_then_sum);
UNIGRPO_ENUM(StreamAdvantage, shared, routed);
UNIGRPO_ENUM(Truncated, train, mask, penalize);
UNIGRPO_ENUM(StepWeight, uniform, inverse_dt);
UNIGRPO_ENUM(ContextGradient, full, detached);

struct AdvantageConfig {  // recipe: [grpo.advantage]
  Normalization normalization = Normalization::group_std;
  StatisticsOf statistics = StatisticsOf::group;  // whose mean and std
  double decay = 0.9;  // prompt, running: how much of the earlier steps' statistics stays a step
  Combine combine = Combine::sum_then_normalize;
  bool normalize_batch = false;     // the summed advantages once more, over all samples of the step (GDPO)
  int64_t top_k = 0, bottom_k = 0;  // only so many of a group's best and worst are trained on; 0 and 0: all
  int64_t max_resamples = 1;        // zero_std = resample: draws at most
  double eps = 1e-4;
  int64_t ddof = 0;                  // of the standard deviation
  double clip = 5.0;                 // advantages are clipped to +-clip for the image loss
  ZeroStd zero_std = ZeroStd::keep;  // keep: A = 0; drop: leaves the batch; resample: another prompt
};

struct TextLossConfig {  // recipe: [grpo.text]
  double weight = 1.0;   // w_text; 0 = text is not trained
  Importance importance = Importance::token;
  Aggregation aggregation = Aggregation::token_mean;
  double clip_low = 0.2;    // PPO clip, below 1
  double clip_high = 0.28;  // DAPO "clip higher"; equal to clip_low for plain GRPO
  double dual_clip = 0.0;   // 0 = off
  double kl_beta = 0.0;
  KlEstimator kl_estimator = KlEstimator::k3;
  int64_t max_length = 0;                  // fixed_length: the divisor; 0 = rollout.max_tokens
  Truncated truncated = Truncated::train;  // texts that max_tokens truncated: train on them, mask, or penalize
};

struct ImageLossConfig {  // recipe: [grpo.image]; [grpo.video] and [grpo.audio], the streams of av segments
  double weight = 1.0;    // w_img; 0 = images are not trained
  double clip_range = 1e-3;
  bool ratio_norm = false;  // GRPO-Guard; flow_sde and dance
  StepWeight step_weight = StepWeight::uniform;
  ContextGradient context_gradient = ContextGradient::full;  // of images alone
  flow::Penalty penalty = flow::Penalty::velocity_mse;
  double penalty_weight = 0.01;  // lambda_vel (or the latent KL's weight)
};

struct AvConfig {                                       // recipe: [grpo.av]
  StreamAdvantage advantage = StreamAdvantage::routed;  // routed: of the terms that judge the stream; shared: of all
};

struct GrpoConfig {                   // recipe: [grpo]
  int64_t prompts_per_step = 12;      // P
  int64_t group_size = 12;            // G
  int64_t num_minibatches = 1;        // optimizer steps a rollout batch, over disjoint mini-batches
  int64_t micro_batch_tokens = 8192;  // tokens in one forward and backward
  AdvantageConfig advantage;
  TextLossConfig text;
  ImageLossConfig image, video, audio;
  AvConfig av;
};

}  // namespace unigrpo::grpo
