#pragma once

#include <memory>

#include "reward/builtin/config.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// Size in kB (1000 bytes) of a sample's last image as a JPEG of quality 95, negative where small files are preferred:
/// the incompressibility and compressibility of DDPO (arXiv 2305.13301, section 5). A sample without an image has no
/// score.
std::unique_ptr<Reward> make_jpeg_reward(JpegPrefer prefer);

}  // namespace unigrpo::reward
