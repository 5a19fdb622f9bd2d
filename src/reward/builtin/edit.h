#pragma once

#include <memory>
#include <span>
#include <string>

#include "reward/builtin/config.h"
#include "reward/builtin/detector.h"
#include "reward/builtin/geneval.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// What a row asks for: GenEval's lists, and what changes.
struct EditRow {
  GenevalRow wanted;
  std::string changed;   // class of the objects that change
  bool removed = false;  // they are in `exclude`
};

/// Throws BadInput where `metadata.changed` or GenEval's lists are not as they must be.
EditRow parse_edit_row(const std::string& metadata_json);

/// Scores a changed image by the row's `include` and `exclude` as GenEval does (score_geneval), and by whether each
/// object of the old image is where it was: objects of other classes than `changed` keep class and colour, those of
/// `changed` their class (a new colour is what was asked for), and none of them may move by more than a tenth of the
/// image. Where `changed` is in `exclude`, its objects need not stay.
///
/// strict: all of it. soft: how far GenEval's soft score came from the old image's to 1, times the share of objects
/// in their place; 0 for an image that nobody touched.
GenevalScore score_edit(const EditRow& row, std::span<const Detection> before, std::span<const Detection> after,
                        int image_width, int image_height);

/// Of the sample's last image against its prompt's first. Needs `include` and `metadata.changed` in the row. Value and
/// parts as those of geneval.
std::unique_ptr<Reward> make_edit_reward(GenevalMetric metric, std::unique_ptr<Detector> detector);

}  // namespace unigrpo::reward
