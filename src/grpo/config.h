#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "flow/config.h"

namespace unigrpo {

namespace grpo {

enum class Importance { token, sequence, cispo };
enum class Aggregation { token_mean, seq_mean, fixed_length };
enum class KlEstimator { k1, k2, k3 };
enum class Normalization { group_std, none, global_std };
enum class ZeroStd { keep, drop, resample };
enum class StatisticsOf { group, prompt, running };
enum class Combine { sum_then_normalize, normalize_then_sum };
enum class Truncated { train, mask, penalize };
enum class StepWeight { uniform, inverse_dt };
enum class ContextGradient { full, detached };

struct AdvantageConfig {  // recipe: [grpo.advantage]
  Normalization normalization = Normalization::group_std;
  StatisticsOf statistics = StatisticsOf::group;  // whose mean and std
  double decay = 0.9;  // prompt, running: how much of the earlier steps' statistics stays a step
  Combine combine = Combine::sum_then_normalize;
  bool normalize_batch = false;       // the summed advantages once more, over all samples of the step (GDPO)
  int64_t best_of = 0, worst_of = 0;  // only so many of a group's best and worst are trained on; 0 and 0: all
  int64_t max_resamples = 1;          // zero_std = resample: draws at most
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
  Truncated truncated = Truncated::train;  // texts that the length limit cut: train on them, mask, or penalize
};

struct ImageLossConfig {  // recipe: [grpo.image]
  double weight = 1.0;    // w_img; 0 = images are not trained
  double clip_range = 1e-3;
  bool ratio_norm = false;  // GRPO-Guard; flow_sde and dance
  StepWeight step_weight = StepWeight::uniform;
  ContextGradient context_gradient = ContextGradient::full;
  flow::Penalty penalty = flow::Penalty::velocity_mse;
  double penalty_weight = 0.01;  // lambda_vel (or the latent KL's weight)
};

struct GrpoConfig {                   // recipe: [grpo]
  int64_t prompts_per_step = 12;      // P
  int64_t group_size = 12;            // G
  int64_t num_updates = 1;            // optimizer steps a rollout batch, over disjoint mini-batches
  int64_t micro_batch_tokens = 8192;  // tokens in one forward and backward
  AdvantageConfig advantage;
  TextLossConfig text;
  ImageLossConfig image;
};

}  // namespace grpo

template <>
struct EnumNames<grpo::Importance> {
  static constexpr std::array names = {std::pair{grpo::Importance::token, "token"},
                                       std::pair{grpo::Importance::sequence, "sequence"},
                                       std::pair{grpo::Importance::cispo, "cispo"}};
};

template <>
struct EnumNames<grpo::Aggregation> {
  static constexpr std::array names = {std::pair{grpo::Aggregation::token_mean, "token_mean"},
                                       std::pair{grpo::Aggregation::seq_mean, "seq_mean"},
                                       std::pair{grpo::Aggregation::fixed_length, "fixed_length"}};
};

template <>
struct EnumNames<grpo::KlEstimator> {
  static constexpr std::array names = {std::pair{grpo::KlEstimator::k1, "k1"}, std::pair{grpo::KlEstimator::k2, "k2"},
                                       std::pair{grpo::KlEstimator::k3, "k3"}};
};

template <>
struct EnumNames<grpo::Normalization> {
  static constexpr std::array names = {std::pair{grpo::Normalization::group_std, "group_std"},
                                       std::pair{grpo::Normalization::none, "none"},
                                       std::pair{grpo::Normalization::global_std, "global_std"}};
};

template <>
struct EnumNames<grpo::StatisticsOf> {
  static constexpr std::array names = {std::pair{grpo::StatisticsOf::group, "group"},
                                       std::pair{grpo::StatisticsOf::prompt, "prompt"},
                                       std::pair{grpo::StatisticsOf::running, "running"}};
};

template <>
struct EnumNames<grpo::ZeroStd> {
  static constexpr std::array names = {std::pair{grpo::ZeroStd::keep, "keep"}, std::pair{grpo::ZeroStd::drop, "drop"},
                                       std::pair{grpo::ZeroStd::resample, "resample"}};
};

template <>
struct EnumNames<grpo::Combine> {
  static constexpr std::array names = {std::pair{grpo::Combine::sum_then_normalize, "sum_then_normalize"},
                                       std::pair{grpo::Combine::normalize_then_sum, "normalize_then_sum"}};
};

template <>
struct EnumNames<grpo::Truncated> {
  static constexpr std::array names = {std::pair{grpo::Truncated::train, "train"},
                                       std::pair{grpo::Truncated::mask, "mask"},
                                       std::pair{grpo::Truncated::penalize, "penalize"}};
};

template <>
struct EnumNames<grpo::StepWeight> {
  static constexpr std::array names = {std::pair{grpo::StepWeight::uniform, "uniform"},
                                       std::pair{grpo::StepWeight::inverse_dt, "inverse_dt"}};
};

template <>
struct EnumNames<grpo::ContextGradient> {
  static constexpr std::array names = {std::pair{grpo::ContextGradient::full, "full"},
                                       std::pair{grpo::ContextGradient::detached, "detached"}};
};

}  // namespace unigrpo
