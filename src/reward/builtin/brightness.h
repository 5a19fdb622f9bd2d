#pragma once

#include <memory>

#include "reward/reward.h"

namespace unigrpo::reward {

/// Mean luma of a sample's last image, in [0, 1] (data::brightness). Easy to hack on purpose, with a weight below 0 by
/// darkness: what tests of alarms train on. A sample without an image has no score.
std::unique_ptr<Reward> make_brightness_reward();

}  // namespace unigrpo::reward
