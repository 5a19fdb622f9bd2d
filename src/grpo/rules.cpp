#include "grpo/rules.h"

#include <fmt/format.h>

#include <algorithm>

#include "rollout/rules.h"

namespace unigrpo::grpo {

int64_t num_updates(const GrpoConfig& config, int64_t num_prompts) {
  return std::min(config.num_minibatches, std::max<int64_t>(num_prompts, 1));
}

std::optional<Conflict> validate(const GrpoConfig& config, const rollout::RolloutConfig& rollout) {
  if (rollout.sde.kind == flow::SdeKind::cps && config.image.ratio_norm) {
    return Conflict{{"grpo.image.ratio_norm", "rollout.sde.kind"},
                    "expected false with rollout.sde.kind = \"cps\" (flow_sde and dance only), got true"};
  }
  if (num_updates(config, config.prompts_per_step) < config.num_minibatches) {
    return Conflict{{"grpo.num_minibatches", "grpo.prompts_per_step"},
                    fmt::format("expected at most prompts_per_step = {} (a mini-batch holds whole groups), got {}",
                                config.prompts_per_step, config.num_minibatches)};
  }
  return {};
}

std::optional<Conflict> validate_weights(const GrpoConfig& config, const rollout::RolloutConfig& rollout) {
  const bool text = has_segment(rollout, data::SegmentKind::text);
  const bool image = has_segment(rollout, data::SegmentKind::image);
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
