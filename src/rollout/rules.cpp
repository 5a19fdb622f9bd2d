#include "rollout/rules.h"

#include <fmt/format.h>

#include <algorithm>

#include "flow/rules.h"

namespace unigrpo::rollout {

using data::SegmentKind;

bool has_segment(const RolloutConfig& config, SegmentKind kind) { return std::ranges::count(config.episode, kind) > 0; }

std::optional<Conflict> validate(const RolloutConfig& config) {
  constexpr size_t kMaxSegments = 16;
  if (const size_t count = config.episode.size(); count > kMaxSegments) {
    return Conflict{{"rollout.episode"}, fmt::format("expected at most {} segments, got {}", kMaxSegments, count)};
  }
  if (auto conflict = flow::validate(config.sde)) return conflict;
  if (!has_segment(config, SegmentKind::image)) return {};
  return flow::validate(config.window, config.sde.kind, config.num_steps);
}

SampleTokens count_tokens(const RolloutConfig& config, ImageTokens image) {
  const int64_t texts = std::ranges::count(config.episode, SegmentKind::text);
  const int64_t images = std::ranges::count(config.episode, SegmentKind::image);
  const bool ends_in_image = !config.episode.empty() && config.episode.back() == SegmentKind::image;
  const int64_t num_trained_steps = flow::window_places(config.window, config.sde.kind, config.num_steps).width;
  return {.sampled = texts * config.max_tokens,
          .texts = texts * (config.max_tokens + 2),
          .images = (images - (ends_in_image ? 1 : 0)) * (image.block + image.seen),
          .denoised = images * config.num_steps * image.block,
          .trained = images * num_trained_steps * image.block,
          .num_trained_steps = num_trained_steps};
}

int64_t images_decoded_together(int64_t latent_tokens) { return std::max<int64_t>(1, 1024 / latent_tokens); }

}  // namespace unigrpo::rollout
