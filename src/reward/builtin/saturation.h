#pragma once

#include <memory>

#include "reward/reward.h"

namespace unigrpo::reward {

/// Mean HSV saturation of a sample's last image, in [0, 1]. Easy to hack on purpose: ablations hold
/// a true score beside it. A sample without an image has no score.
std::unique_ptr<Reward> make_saturation_reward();

}  // namespace unigrpo::reward
