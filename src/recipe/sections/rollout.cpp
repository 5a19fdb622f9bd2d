#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using flow::SdeConfig, flow::WindowConfig;
using rollout::ClipConfig, rollout::RolloutConfig;

Section rollout_section() {
  return Builder("rollout", "how samples are drawn", [](Recipe& r, size_t) -> auto& { return r.rollout; })
      .row("episode", &RolloutConfig::episode, "segments of a sample in order", list(kSegment))
      .row("num_steps", &RolloutConfig::num_steps, "denoising steps of an image", between(1, 10000))
      .row("timestep_shift", &RolloutConfig::timestep_shift, "of the time grid; 1: even steps", between(0.01, 100))
      .row("image_size", &RolloutConfig::image_size, "pixels, square", between(1, 8192))
      .row("max_tokens", &RolloutConfig::max_tokens, "of a text segment, the end token included", between(1, 1e6))
      .row("temperature", &RolloutConfig::temperature, "of text sampling", between(0.01, 100))
      .row("system_prompt", &RolloutConfig::system_prompt,
           "block of text before every prompt; empty: the model folder's own", lines())
      .row("token_budget", &RolloutConfig::token_budget, "tokens that one rollout batch may hold at once",
           between(1, kMany))
      .row("graphs", &RolloutConfig::graphs,
           "decoding and denoising steps as CUDA graphs, with the same results; needs policy.device = \"cuda\"")
      .row("rollout_cfg_scale", &RolloutConfig::rollout_cfg_scale, "ablation only: guidance in the rollout; 1: none",
           between(1, 100))
      .row("video_noise_level", &RolloutConfig::video_noise_level,
           "av: of the video's SDE; -1: rollout.sde.noise_level, 0: it goes by ODE", or_else(-1, between(0, 10)))
      .row("audio_noise_level", &RolloutConfig::audio_noise_level, "av: the same of the sound's",
           or_else(-1, between(0, 10)))
      .row("audio_window_offset", &RolloutConfig::audio_window_offset,
           "av: by so many steps the sound's window begins after the video's", between(0, 10000))
      .row("shift_tokens", &RolloutConfig::shift_tokens,
           "av: video tokens that the model's time grid is made for; 0: the clip's", or_else(0, between(1, kMany)));
}

Section rollout_clip_section() {
  return Builder("rollout.clip", "the size of an av segment", [](Recipe& r, size_t) -> auto& { return r.rollout.clip; })
      .row("frames", &ClipConfig::frames, "1 and a multiple of the frames that a latent holds", between(1, 10000))
      .row("height", &ClipConfig::height, "pixels", between(1, 8192))
      .row("width", &ClipConfig::width, "pixels", between(1, 8192))
      .row("fps", &ClipConfig::fps, "frames a second", between(1, 240));
}

Section rollout_sde_section() {
  return Builder("rollout.sde", "the stochastic denoising step",
                 [](Recipe& r, size_t) -> auto& { return r.rollout.sde; })
      .row("kind", &SdeConfig::kind, "Flow-GRPO's SDE, coefficients-preserving, or DanceGRPO's")
      .row("noise_level", &SdeConfig::noise_level, "a; cps: at most 1", between(0.001, 10));
}

Section rollout_window_section() {
  return Builder("rollout.window", "which denoising steps are stochastic and trained",
                 [](Recipe& r, size_t) -> auto& { return r.rollout.window; })
      .row("mode", &WindowConfig::mode, "random: one place per prompt group and step of the run")
      .row("width", &WindowConfig::width, "stochastic steps (all: not used)", between(1, 10000))
      .row("first", &WindowConfig::first, "fixed: first stochastic step; random, sliding: the lowest",
           between(0, 10000))
      .row("last", &WindowConfig::last, "random, sliding: end of the range, exclusive; -1: the end",
           or_else(-1, between(1, 10000)))
      .row("shift_interval", &WindowConfig::shift_interval, "sliding: steps of the run before it moves by one",
           between(1, kMany));
}

}  // namespace

std::vector<Section> rollout_sections() {
  return {rollout_section(), rollout_clip_section(), rollout_sde_section(), rollout_window_section()};
}

}  // namespace unigrpo::recipe
