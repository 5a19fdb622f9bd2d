#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reward/builtin/detector.h"
#include "reward/config.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// What GenEval (Ghosh et al., arXiv 2310.11513) asks of an image.
struct GenevalScore {
  double strict = 0;   // 1 when every requirement is met
  double soft = 0;     // share of the requirements met, 0..1
  std::string reason;  // what is wrong, empty when strict is 1
};

/// Scores detections against a row's `include` / `exclude`.
///
/// Requirements, each met or not: an include entry's class is there; exactly `count` objects of it
/// are (GenEval itself lets more pass outside its counting task; here a surplus object of a named
/// class is an error); all of them have the entry's `color`, where it gives one; each of them
/// stands in the relation of `position` to each object of the group that it names; and of an
/// exclude entry's class there are fewer than `count` objects. Objects of classes that the row does
/// not name are ignored, as in GenEval. Two entries may share a class when their colours differ:
/// then each counts the objects of its colour, and the class's total must be right as well.
/// Relations are GenEval's: the offset of the box centres, less a tenth of both boxes' sizes, over
/// its length; "left of" where the x component is below -0.5, and so on.
/// Throws BadInput where `metadata_json` is not in GenEval's schema, RuntimeFailure for a box that
/// is empty or not within the image (by a pixel or more): a fault of the detector.
GenevalScore score_geneval(std::string_view metadata_json, std::span<const Detection> detections, int image_width,
                           int image_height);

/// As a sample's score: the value is `measure` (mixed: the mean of both), the parts are geneval_dimensions().
Score to_score(const GenevalScore& found, GenevalMeasure measure);

/// "strict" and "soft".
std::vector<std::string> geneval_dimensions();

/// Detects the objects in a sample's last image and scores them: the value is `measure` (mixed: the
/// mean of strict and soft), the parts are "strict" and "soft". Range [0, 1].
std::unique_ptr<Reward> make_geneval_reward(GenevalMeasure measure, std::unique_ptr<Detector> detector);

}  // namespace unigrpo::reward
