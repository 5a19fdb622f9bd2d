#pragma once

#include <memory>

#include "reward/reward.h"

namespace unigrpo::reward {

/// 1 where a sample's first text segment is one ended thought, "<think> ... </think>" with words
/// inside and nothing but white space around, else 0. Asks nothing of the metadata.
std::unique_ptr<Reward> make_format_reward();

}  // namespace unigrpo::reward
