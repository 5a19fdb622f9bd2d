#pragma once

#include <memory>

#include "reward/builtin/config.h"
#include "reward/reward.h"

/// Functions of a sample's last image alone, whatever the prompt: easy to hack on purpose, which ablations and tests of
/// the drift monitor need. A sample without an image has no score.
namespace unigrpo::reward {

/// Mean luma, in [0, 1] (data::brightness).
std::unique_ptr<Reward> make_brightness_reward();

/// Size in kB (1000 bytes) as a JPEG of quality 95, negative where small files are preferred: the incompressibility and
/// compressibility of DDPO (arXiv 2305.13301, section 5).
std::unique_ptr<Reward> make_jpeg_reward(JpegPrefer prefer);

/// Mean HSV saturation, in [0, 1].
std::unique_ptr<Reward> make_saturation_reward();

}  // namespace unigrpo::reward
