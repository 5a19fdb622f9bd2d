#pragma once

#include <memory>
#include <span>
#include <string>

#include "reward/builtin/detector.h"
#include "reward/builtin/geneval.h"
#include "reward/config.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// Scores a changed picture: the row's `include` and `exclude` as GenEval does (score_geneval), and as one requirement more for
/// each object of the old picture that it is where it was: objects of other classes than `changed` keep class and colour, those
/// of `changed` their class (a new colour is what was asked for), and none of them may move by more than a tenth of the
/// picture. Where `changed` is in `exclude`, its objects need not stay.
GenevalScore score_edit(const std::string& metadata_json, std::span<const Detection> before,
                        std::span<const Detection> after, int image_width, int image_height);

/// Of the sample's last image against its prompt's first. Needs `include` and `metadata.changed` in the row. Value and parts as
/// those of geneval.
std::unique_ptr<Reward> make_edit_reward(GenevalMeasure measure, std::unique_ptr<Detector> detector);

}  // namespace unigrpo::reward
