#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/segment_kind.h"
#include "flow/config.h"

namespace unigrpo {

namespace rollout {

/// Which tokens may be drawn, in transformers' order: the top_k likeliest (and those as likely as the last of them); of
/// these the likeliest that together pass top_p, the one that passes it among them; of these those at least min_p as
/// likely as the likeliest.
struct Truncation {
  int64_t top_k = 0;   // 0: all
  double top_p = 1.0;  // in [0, 1]; 1: all
  double min_p = 0.0;  // in [0, 1]; 0: all

  bool any() const { return top_k > 0 || top_p < 1 || min_p > 0; }
};

struct ClipConfig {  // recipe: [rollout.clip], the size of an av segment
  int64_t frames = 17;
  int64_t height = 32, width = 32;  // pixels
  double fps = 16.0;
};

struct RolloutConfig {  // recipe: [rollout]
  std::vector<data::SegmentKind> episode = {data::SegmentKind::text, data::SegmentKind::image};
  int64_t num_steps = 10;  // denoising steps of an image
  double timestep_shift = 1.0;
  int64_t image_size = 64;  // pixels, square
  int64_t max_tokens = 48;  // a text segment, the end token included
  double temperature = 1.0;
  std::string system_prompt;       // text block before every prompt; empty = the model folder's own
  int64_t token_budget = 16384;    // tokens that one rollout batch may hold at once
  bool graphs = false;             // steps are recorded and played back; CUDA alone, with the same bits
  double rollout_cfg_scale = 1.0;  // ablation only: guidance in the rollout; 1 = none
  double video_noise_level = -1;   // of an av segment's streams; -1 = sde.noise_level, 0 = the stream goes by ODE
  double audio_noise_level = -1;
  int64_t audio_window_offset = 0;  // by so many steps the sound's window begins after the video's
  int64_t shift_tokens = 0;         // av: video tokens that the model's time grid is made for; 0 = the clip's
  ClipConfig clip;
  /// Of `sample` and `eval` alone, no recipe has it: the log-probs of what is trained on must be those of the
  /// distribution that it was drawn from.
  Truncation truncation = {};
  flow::SdeConfig sde;
  flow::WindowConfig window;
};

}  // namespace rollout

}  // namespace unigrpo
