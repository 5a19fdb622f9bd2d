#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reward/builtin/config.h"
#include "reward/builtin/detector.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// What GenEval (Ghosh et al., arXiv 2310.11513) asks of an image.
struct GenevalScore {
  double strict = 0;   // 1 when every requirement is met
  double soft = 0;     // share of the requirements met, 0..1
  std::string reason;  // what is wrong, empty when strict is 1
};

/// What GenEval's public evaluator says of an image.
struct OfficialScore {
  bool correct = false;
  std::string reason;  // what is wrong, empty when correct
};

/// What a row asks for: its `include` and `exclude`.
struct GenevalRow {
  struct Position {
    std::string relation;
    size_t target = 0;  // index of an earlier include entry
  };
  struct Requirement {
    std::string class_name;
    int64_t count = 1;
    std::string color;  // empty where the entry gives none
    std::optional<Position> position;
  };
  std::vector<Requirement> include, exclude;
  bool counting = false;  // the row's tag is "counting"
};

/// Throws BadInput where the row is not in GenEval's schema.
GenevalRow read_geneval_row(const nlohmann::json& row);
GenevalRow parse_geneval_row(std::string_view metadata_json);

/// Scores detections against a row.
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
/// Throws RuntimeFailure for a box that is empty or not within the image (by a pixel or more): a
/// fault of the detector.
GenevalScore score_geneval(const GenevalRow& row, std::span<const Detection> detections, int image_width,
                           int image_height);

/// Scores detections as GenEval's own evaluator does with its default options; it differs from score_geneval in counts,
/// colours and relations, which it asks of the surest `count` objects of a class alone:
///
/// - an object counts where its confidence is above `min_confidence` (Detector::min_confidence); of a class the surest
///   16, equals in the detector's order;
/// - an include entry is met by `count` objects of its class or more; the surest `count` of them must all have its
///   `color`, and each must stand in the relation of `position` to each of those that met the entry it names (where
///   that entry is not met, this one is not). Relations are those of score_geneval;
/// - more objects than asked for are wrong only where an exclude entry says so: there are `count` of its class or more.
///
/// The evaluator names colours by CLIP among ten of its own; here they are the detector's. Throws as score_geneval.
/// Source: evaluate() and evaluate_image() in evaluation/evaluate_images.py of github.com/djghosh13/geneval (16f1681).
OfficialScore score_official(const GenevalRow& row, std::span<const Detection> detections, double min_confidence,
                             int image_width, int image_height);

/// Why a row can never be met as this detector sees images; empty where it can. For message lines.
std::string blind_spot(const GenevalRow& row, const Detector& detector);

/// As a sample's score: the value is `metric` (mixed: the mean of both; not official), the parts are
/// geneval_dimensions().
Score to_score(const GenevalScore& found, GenevalMetric metric);

/// "strict" and "soft".
std::vector<std::string> geneval_dimensions();

/// Detects the objects in a sample's last image and scores them: the value is `metric` (mixed: the mean of strict and
/// soft; official: score_official), the parts are "strict" and "soft". Range [0, 1].
std::unique_ptr<Reward> make_geneval_reward(GenevalMetric metric, std::unique_ptr<Detector> detector);

}  // namespace unigrpo::reward
