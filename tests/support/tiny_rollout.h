#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/prompt.h"
#include "rollout/engine.h"
#include "support/tiny_bagel.h"

namespace unigrpo::testing {

inline constexpr auto kText = data::SegmentKind::text, kImage = data::SegmentKind::image;

inline std::vector<data::Prompt> prompts(const std::vector<std::string>& texts) {
  std::vector<data::Prompt> list;
  for (const std::string& text : texts) {
    data::Prompt& prompt = list.emplace_back();
    prompt.text = text;
    prompt.index = static_cast<int64_t>(list.size()) - 1;
    prompt.id = std::to_string(prompt.index);
  }
  return list;
}

/// Two segments, four denoising steps, two of them stochastic.
inline rollout::RolloutConfig tiny_rollout() {
  rollout::RolloutConfig config;
  config.num_steps = 4;
  config.max_tokens = 10;
  config.image_size = 64;
  config.window.width = 2;
  return config;
}

inline rollout::RolloutRequest request(std::span<const data::Prompt> list, int64_t group_size) {
  rollout::RolloutRequest request{.prompts = list,
                                  .keys = {},
                                  .group_size = group_size,
                                  .first_sample = 0,
                                  .step = 1,
                                  .stochastic = true,
                                  .guidance = {},
                                  .teacher_forced_text = {}};
  for (const data::Prompt& prompt : list) request.keys.push_back(static_cast<uint64_t>(prompt.index));
  return request;
}

}  // namespace unigrpo::testing
