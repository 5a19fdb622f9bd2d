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

constexpr double kMayMove = 0.1;  // of the image's longer side

/// Detections in shares of the image, so that images of two sizes compare.
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
  EditReward(GenevalMetric metric, std::unique_ptr<Detector> detector)
      : metric_(metric), detector_(std::move(detector)) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores(samples.size());
    std::vector<size_t> judged;
    std::vector<EditRow> rows;         // of the judged
    std::vector<const Image*> images;  // of each judged sample, the old image and the new one
    for (size_t n = 0; n < samples.size(); ++n) {
      scores[n].reason = unfit(samples[n]);
      if (scores[n].reason.empty()) {
        scores[n].reason = complaint_of([&] { rows.push_back(seen_row(samples[n].metadata_json)); });
      }
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
      score = to_score(score_edit(rows[i], old_objects, after.objects, new_image.width, new_image.height), metric_);
    }
    return scores;
  }

  std::string missing_metadata(const std::string& metadata_json) const override {
    return complaint_of([&] { seen_row(metadata_json); });
  }
  std::vector<std::string> dimensions() const override { return geneval_dimensions(); }
  void new_step() override { detector_->new_step(); }

 private:
  /// Throws BadInput for a row that is none, or that the detector cannot see the objects of.
  EditRow seen_row(const std::string& metadata_json) const {
    EditRow row = parse_edit_row(metadata_json);
    std::string blind = blind_spot(row.wanted, *detector_);
    if (blind.empty()) blind = detector_->blind_to(row.changed, "");
    if (!blind.empty()) throw BadInput("{}", blind);
    return row;
  }

  /// Why a sample's images cannot be judged; empty where they can.
  static std::string unfit(const data::Sample& sample) {
    const Image* after = sample.last_image();
    if (!after) return "no image";
    if (sample.images.empty()) return "the prompt has no image";
    if (!is_whole(*after) || !is_whole(*sample.images.front())) return "an image is empty";
    return "";
  }

  GenevalMetric metric_;
  std::unique_ptr<Detector> detector_;
};

}  // namespace

EditRow parse_edit_row(const std::string& metadata_json) {
  const nlohmann::json json = io::parse_json(metadata_json, "metadata");
  if (!json.is_object() || !json.contains("metadata") || !json["metadata"].is_object() ||
      !json["metadata"].contains("changed") || !json["metadata"]["changed"].is_string()) {
    throw BadInput("'metadata.changed' is missing: the class of the objects that change");
  }
  EditRow row{.wanted = read_geneval_row(json), .changed = json["metadata"]["changed"].get<std::string>()};
  row.removed =
      std::ranges::any_of(row.wanted.exclude, [&](const auto& entry) { return entry.class_name == row.changed; });
  return row;
}

GenevalScore score_edit(const EditRow& row, std::span<const Detection> before, std::span<const Detection> after,
                        int image_width, int image_height) {
  const GenevalScore wanted = score_geneval(row.wanted, after, image_width, image_height);
  const double reach = kMayMove * std::max(image_width, image_height);
  std::set<const Detection*> taken;
  double kept = 0, objects = 0;
  std::string reason = wanted.reason;
  for (const Detection& old : before) {
    const bool touched = old.class_name == row.changed;
    if (touched && row.removed) continue;
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
  const double had = score_geneval(row.wanted, before, image_width, image_height).soft;
  const double progress = had < 1 ? std::max(0.0, (wanted.soft - had) / (1 - had)) : wanted.soft;
  return {.strict = wanted.strict == 1.0 && kept == objects ? 1.0 : 0.0, .soft = progress * share, .reason = reason};
}

std::unique_ptr<Reward> make_edit_reward(GenevalMetric metric, std::unique_ptr<Detector> detector) {
  return std::make_unique<EditReward>(metric, std::move(detector));
}

}  // namespace unigrpo::reward
