#include "rollout/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "flow/rules.h"

namespace unigrpo::rollout {

using data::SegmentKind;

bool has_segment(const RolloutConfig& config, SegmentKind kind) { return std::ranges::count(config.episode, kind) > 0; }

std::vector<std::string_view> flow_modalities(const RolloutConfig& config) {
  if (has_segment(config, SegmentKind::av)) return {"video", "audio"};
  return {"image"};
}

std::optional<flow::SdeConfig> sde_of(const RolloutConfig& config, std::string_view modality) {
  flow::SdeConfig sde = config.sde;
  const double own = modality == "video"   ? config.video_noise_level
                     : modality == "audio" ? config.audio_noise_level
                                           : -1;
  if (own >= 0) sde.noise_level = own;
  if (own == 0) return std::nullopt;
  return sde;
}

namespace {

/// What is wrong with an av segment.
std::optional<Conflict> validate_clips(const RolloutConfig& config) {
  if (config.episode.size() > 1) {
    return Conflict{{"rollout.episode"},
                    fmt::format("expected an av segment by itself, got one of {} segments", config.episode.size())};
  }
  if (config.rollout_cfg_scale != 1) {
    return Conflict{{"rollout.rollout_cfg_scale", "rollout.episode"},
                    fmt::format("expected 1 with an av segment, got {}", config.rollout_cfg_scale)};
  }
  if (config.video_noise_level == 0 && config.audio_noise_level == 0) {
    return Conflict{{"rollout.video_noise_level", "rollout.audio_noise_level"},
                    "expected above 0 here or in rollout.audio_noise_level, got 0 in both: nothing is trained"};
  }
  for (const auto& [key, level] : {std::pair("rollout.video_noise_level", config.video_noise_level),
                                   std::pair("rollout.audio_noise_level", config.audio_noise_level)}) {
    if (config.sde.kind != flow::SdeKind::cps || level <= 1) continue;
    return Conflict{{key, "rollout.sde.kind"},
                    fmt::format("expected at most 1 with rollout.sde.kind = \"cps\", got {}", level)};
  }
  if (auto conflict = flow::validate(config.window, config.sde.kind, config.num_steps)) return conflict;
  const flow::WindowPlaces places = flow::window_places(config.window, config.sde.kind, config.num_steps);
  const int64_t last = flow::num_stochastic_steps(config.sde.kind, config.num_steps) - places.first - places.width -
                       (places.num_places - 1);
  if (config.audio_window_offset <= last) return {};
  return Conflict{{"rollout.audio_window_offset", "rollout.window.first", "rollout.num_steps"},
                  fmt::format("expected at most {}, so that the sound's window stays within the grid, got {}", last,
                              config.audio_window_offset)};
}

}  // namespace

std::optional<Conflict> validate(const RolloutConfig& config) {
  constexpr size_t kMaxSegments = 16;
  if (const size_t count = config.episode.size(); count > kMaxSegments) {
    return Conflict{{"rollout.episode"}, fmt::format("expected at most {} segments, got {}", kMaxSegments, count)};
  }
  if (auto conflict = flow::validate(config.sde)) return conflict;
  if (has_segment(config, SegmentKind::av)) return validate_clips(config);
  if (!has_segment(config, SegmentKind::image)) return {};
  return flow::validate(config.window, config.sde.kind, config.num_steps);
}

SampleTokens count_tokens(const RolloutConfig& config, ImageTokens image) {
  const int64_t texts = std::ranges::count(config.episode, SegmentKind::text);
  const int64_t images = std::ssize(config.episode) - texts;
  const bool ends_in_image = !config.episode.empty() && config.episode.back() != SegmentKind::text;
  int64_t num_trained_steps = flow::window_places(config.window, config.sde.kind, config.num_steps).width;
  if (has_segment(config, SegmentKind::av)) num_trained_steps += config.audio_window_offset;
  return {.sampled = texts * config.max_tokens,
          .texts = texts * (config.max_tokens + 2),
          .images = (images - (ends_in_image ? 1 : 0)) * (image.block + image.seen),
          .denoised = images * config.num_steps * image.block,
          .trained = images * num_trained_steps * image.block,
          .num_trained_steps = num_trained_steps};
}

int64_t images_decoded_together(int64_t latent_tokens) { return std::max<int64_t>(1, 1024 / latent_tokens); }

}  // namespace unigrpo::rollout
