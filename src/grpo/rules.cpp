#include "grpo/rules.h"

#include <fmt/format.h>

#include "rollout/rules.h"

namespace unigrpo::grpo {

std::optional<Conflict> validate(const GrpoConfig& config, const rollout::RolloutConfig& rollout) {
  if (rollout.sde.kind == flow::SdeKind::cps && config.image.ratio_norm) {
    return Conflict{{"grpo.image.ratio_norm", "rollout.sde.kind"},
                    "expected false with rollout.sde.kind = \"cps\" (flow_sde and dance only), got true"};
  }
  for (const std::string_view modality : {"video", "audio"}) {
    if (!has_segment(rollout, data::SegmentKind::av)) break;
    const ImageLossConfig& loss = modality == "video" ? config.video : config.audio;
    const std::string key = fmt::format("grpo.{}.", modality), level = fmt::format("rollout.{}_noise_level", modality);
    if (rollout.sde.kind == flow::SdeKind::cps && loss.ratio_norm) {
      return Conflict{{key + "ratio_norm", "rollout.sde.kind"},
                      "expected false with rollout.sde.kind = \"cps\" (flow_sde and dance only), got true"};
    }
    if (!sde_of(rollout, modality) && loss.penalty == flow::Penalty::latent_kl) {
      return Conflict{{key + "penalty", level},
                      fmt::format("expected velocity_mse or none with {} = 0: an ODE has no KL", level)};
    }
  }
  if (config.text.kl_estimator == KlEstimator::k1 && config.text.kl_beta > 0 && config.text.weight > 0 &&
      has_segment(rollout, data::SegmentKind::text)) {
    return Conflict{{"grpo.text.kl_estimator", "grpo.text.kl_beta"},
                    "expected k2 or k3 with grpo.text.kl_beta > 0, got k1: the expectation of its gradient is 0 (k2's "
                    "gradient is that of the KL)"};
  }
  if (config.num_minibatches > config.prompts_per_step) {
    return Conflict{{"grpo.num_minibatches", "grpo.prompts_per_step"},
                    fmt::format("expected at most prompts_per_step = {} (a mini-batch holds whole groups), got {}",
                                config.prompts_per_step, config.num_minibatches)};
  }
  return {};
}

std::optional<Conflict> validate_weights(const GrpoConfig& config, const rollout::RolloutConfig& rollout) {
  const bool text = has_segment(rollout, data::SegmentKind::text);
  const bool image = has_segment(rollout, data::SegmentKind::image);
  if (has_segment(rollout, data::SegmentKind::av)) {
    const bool video = config.video.weight > 0 && sde_of(rollout, "video"),
               audio = config.audio.weight > 0 && sde_of(rollout, "audio");
    if (video || audio) return {};
    return Conflict{
        {"grpo.video.weight", "grpo.audio.weight", "rollout.video_noise_level", "rollout.audio_noise_level"},
        "expected a weight > 0 of a stream that is stochastic: nothing is trained"};
  }
  if ((text && config.text.weight > 0) || (image && config.image.weight > 0)) return {};
  if (text && image) {
    return Conflict{{"grpo.text.weight", "grpo.image.weight"},
                    "expected a weight > 0 here or in grpo.image.weight: nothing is trained"};
  }
  return Conflict{{text ? "grpo.text.weight" : "grpo.image.weight", "rollout.episode"},
                  fmt::format("expected a weight > 0: rollout.episode has {} only, so nothing is trained",
                              text ? "text" : "images")};
}

}  // namespace unigrpo::grpo
