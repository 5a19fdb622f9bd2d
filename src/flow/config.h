#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::flow {

UNIGRPO_ENUM(SdeKind, flow_sde, cps, dance);
UNIGRPO_ENUM(WindowMode, all, fixed, random, sliding);
UNIGRPO_ENUM(Penalty, velocity_mse, latent_kl, none);
UNIGRPO_ENUM(Renorm, global, channel, text_channel);

struct SdeConfig {  // recipe: [rollout.sde]
  SdeKind kind = SdeKind::flow_sde;
  double noise_level = 0.7;  // a
};

/// Which of the N steps are stochastic and trained; the others are ODE steps.
struct WindowConfig {                    // recipe: [rollout.window]
  WindowMode mode = WindowMode::random;  // random: one first step per prompt group and step of the run
  int64_t width = 2;                     // stochastic steps (all: every step but the last where its std is 0)
  int64_t first = 0;                     // fixed: first stochastic step; random, sliding: lowest first step
  int64_t last = -1;                     // random, sliding: end of the range, exclusive; -1 = N
  int64_t shift_interval = 1;            // sliding: steps of the run before the window moves by one
};

/// Classifier-free guidance, for sampling and evaluation only. Names as in the official BAGEL code.
struct GuidanceConfig {
  double text_scale = 1.0;         // cfg_text_scale; 1 = none
  double image_scale = 1.0;        // cfg_img_scale (editing); 1 = none; needs text_scale > 1
  Renorm renorm = Renorm::global;  // cfg_renorm_type
  double renorm_min = 0.0;         // cfg_renorm_min; 1 = no renormalisation
  double interval_low = 0.4;       // cfg_interval: guidance acts where low < t <= high
  double interval_high = 1.0;
};

}  // namespace unigrpo::flow
