#include "reward/builtin/edit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/error.h"
#include "io/json.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

constexpr double kMayMove = 0.1;  // of the picture's longer side

struct Change {
  std::string changed;  // class
  bool removed = false;
};

Change change_of(const std::string& metadata_json) {
  const nlohmann::json row = io::parse_json(metadata_json, "metadata");
  if (!row.is_object() || !row.contains("metadata") || !row["metadata"].is_object() ||
      !row["metadata"].contains("changed") || !row["metadata"]["changed"].is_string()) {
    throw BadInput("'metadata.changed' is missing: the class of the objects that change");
  }
  Change change{.changed = row["metadata"]["changed"].get<std::string>()};
  if (row.contains("exclude") && row["exclude"].is_array()) {
    for (const auto& entry : row["exclude"]) {
      change.removed =
          change.removed || (entry.is_object() && entry.contains("class") && entry["class"] == change.changed);
    }
  }
  return change;
}

/// Detections in shares of the picture, so that pictures of two sizes compare.
std::vector<Detection> scaled(std::vector<Detection> found, double x, double y) {
  for (Detection& object : found) {
    object.left *= x;
    object.right *= x;
    object.top *= y;
    object.bottom *= y;
  }
  return found;
}

class EditReward : public Reward {
 public:
  EditReward(GenevalMeasure measure, std::unique_ptr<Detector> detector)
      : measure_(measure), detector_(std::move(detector)) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores(samples.size());
    std::vector<size_t> judged;
    std::vector<const Image*> images;  // of each judged sample, the old picture and the new one
    for (size_t n = 0; n < samples.size(); ++n) {
      scores[n].reason = unfit(samples[n]);
      if (!scores[n].reason.empty()) continue;
      judged.push_back(n);
      images.insert(images.end(), {samples[n].images.front().get(), samples[n].last_image()});
    }
    const std::vector<Detections> found = detector_->detect_all(images);
    for (size_t i = 0; i < judged.size(); ++i) {
      Score& score = scores[judged[i]];
      const Detections &before = found[2 * i], &after = found[2 * i + 1];
      score.reason = before.failure.empty() ? after.failure : before.failure;
      if (!score.reason.empty()) continue;
      const Image &old_image = *images[2 * i], &new_image = *images[2 * i + 1];
      const auto old_objects = scaled(before.objects, static_cast<double>(new_image.width) / old_image.width,
                                      static_cast<double>(new_image.height) / old_image.height);
      score = to_score(
          score_edit(samples[judged[i]].metadata_json, old_objects, after.objects, new_image.width, new_image.height),
          measure_);
    }
    return scores;
  }

  std::string missing_metadata(const std::string& metadata_json) const override {
    return complaint_of([&] {
      change_of(metadata_json);
      score_geneval(metadata_json, {}, 1, 1);
    });
  }
  std::vector<std::string> dimensions() const override { return geneval_dimensions(); }

 private:
  /// Why a sample cannot be judged; empty where it can.
  std::string unfit(const data::Sample& sample) const {
    const Image* after = sample.last_image();
    if (!after) return "no image";
    if (sample.images.empty()) return "the prompt has no image";
    if (!is_whole(*after) || !is_whole(*sample.images.front())) return "an image is empty";
    return missing_metadata(sample.metadata_json);
  }

  GenevalMeasure measure_;
  std::unique_ptr<Detector> detector_;
};

}  // namespace

GenevalScore score_edit(const std::string& metadata_json, std::span<const Detection> before,
                        std::span<const Detection> after, int image_width, int image_height) {
  const Change change = change_of(metadata_json);
  const GenevalScore wanted = score_geneval(metadata_json, after, image_width, image_height);
  const double reach = kMayMove * std::max(image_width, image_height);
  std::set<const Detection*> taken;
  double kept = 0, objects = 0;
  std::string reason = wanted.reason;
  for (const Detection& old : before) {
    const bool touched = old.class_name == change.changed;
    if (touched && change.removed) continue;
    ++objects;
    const Detection* nearest = nullptr;
    double best = reach;
    for (const Detection& object : after) {
      if (taken.contains(&object) || object.class_name != old.class_name || (!touched && object.color != old.color))
        continue;
      const double distance = std::hypot(object.center_x() - old.center_x(), object.center_y() - old.center_y());
      if (distance <= best) {
        best = distance;
        nearest = &object;
      }
    }
    if (nearest) {
      taken.insert(nearest);
      ++kept;
    } else {
      reason += fmt::format("{}the {} {} is not where it was", reason.empty() ? "" : "; ", old.color, old.class_name);
    }
  }
  const double share = objects > 0 ? kept / objects : 1.0;
  const double had = score_geneval(metadata_json, before, image_width, image_height).soft;
  const double progress = had < 1 ? std::max(0.0, (wanted.soft - had) / (1 - had)) : wanted.soft;
  return {.strict = wanted.strict == 1.0 && kept == objects ? 1.0 : 0.0, .soft = progress * share, .reason = reason};
}

std::unique_ptr<Reward> make_edit_reward(GenevalMeasure measure, std::unique_ptr<Detector> detector) {
  return std::make_unique<EditReward>(measure, std::move(detector));
}

}  // namespace unigrpo::reward
