#include "reward/builtin/geneval.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "io/json.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

using Json = nlohmann::json;
using Requirement = GenevalRow::Requirement;

constexpr double kPositionThreshold = 0.1;  // share of both boxes' sizes that an offset must exceed
constexpr double kDirectionThreshold = 0.5;
constexpr double kNoOffset = 1e-3;  // pixels
constexpr size_t kMaxObjects = 16;  // of a class, for GenEval's evaluator
constexpr std::array kRelations = {"left of", "right of", "above", "below"};

void require(bool condition, std::string_view list, size_t index, std::string_view what) {
  if (!condition) throw BadInput("'{}' entry {}: {}", list, index, what);
}

std::string required_string(const Json& value, std::string_view list, size_t index, std::string_view key) {
  require(value.is_string() && !value.get_ref<const std::string&>().empty(), list, index,
          fmt::format("'{}' must be a non-empty string", key));
  return value.get<std::string>();
}

GenevalRow::Position parse_position(const Json& value, size_t index) {
  require(value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_number_integer(), "include",
          index, "'position' must be [relation, index of an include entry]");
  GenevalRow::Position position = {.relation = value[0].get<std::string>(), .target = 0};
  require(std::find(kRelations.begin(), kRelations.end(), position.relation) != kRelations.end(), "include", index,
          "'position' must be left of | right of | above | below");
  require(value[1] >= 0 && value[1] < index, "include", index, "'position' must name an earlier entry");
  position.target = value[1].get<size_t>();
  return position;
}

Requirement parse_requirement(const Json& entry, const std::string& list, size_t index) {
  require(entry.is_object(), list, index, "expected an object");
  require(entry.contains("class"), list, index, "'class' is missing");
  require(entry.contains("count"), list, index, "'count' is missing");
  Requirement requirement;
  for (const auto& [key, value] : entry.items()) {
    if (key == "class") {
      requirement.class_name = required_string(value, list, index, key);
    } else if (key == "count") {
      require(value.is_number_integer() && value >= 1 && value <= 1'000'000, list, index,
              "'count' must be an integer of at least 1");
      requirement.count = value.get<int64_t>();
    } else if (key == "color" && list == "include") {
      requirement.color = required_string(value, list, index, key);
    } else if (key == "position" && list == "include") {
      requirement.position = parse_position(value, index);
    } else {
      require(false, list, index, fmt::format("unknown key '{}'", key));
    }
  }
  return requirement;
}

std::vector<Requirement> parse_list(const Json& json, const std::string& list) {
  if (!json.contains(list)) return {};
  if (!json[list].is_array()) throw BadInput("'{}' must be a list", list);
  std::vector<Requirement> requirements;
  for (const Json& entry : json[list]) {
    requirements.push_back(parse_requirement(entry, list, requirements.size()));
  }
  return requirements;
}

int64_t num_sharing(const GenevalRow& row, const std::string& class_name) {
  return std::count_if(row.include.begin(), row.include.end(),
                       [&](const Requirement& other) { return other.class_name == class_name; });
}

/// GenEval's relation of a to b:
///
///   offset  = center_a - center_b
///   revised = sign(offset) * max(|offset| - 0.1 * (size_a + size_b), 0)
///   (dx, dy) = revised / |offset|_2;  left of: dx < -0.5, right of: dx > 0.5, above: dy < -0.5,
///   below: dy > 0.5
bool stands_in_relation(const Detection& a, const Detection& b, const std::string& relation) {
  const double offset_x = a.center_x() - b.center_x(), offset_y = a.center_y() - b.center_y();
  const auto revised = [](double offset, double sizes) {
    return std::copysign(std::max(std::abs(offset) - kPositionThreshold * sizes, 0.0), offset);
  };
  const double length = std::hypot(offset_x, offset_y);
  const double revised_x = revised(offset_x, (a.right - a.left) + (b.right - b.left));
  const double revised_y = revised(offset_y, (a.bottom - a.top) + (b.bottom - b.top));
  if (std::abs(revised_x) < kNoOffset && std::abs(revised_y) < kNoOffset) return false;
  const double dx = revised_x / length, dy = revised_y / length;
  if (relation == "left of") return dx < -kDirectionThreshold;
  if (relation == "right of") return dx > kDirectionThreshold;
  if (relation == "above") return dy < -kDirectionThreshold;
  return dy > kDirectionThreshold;
}

/// Counts requirements and keeps what failed.
class Tally {
 public:
  void add(bool met, const std::string& failure) {
    ++total_;
    met_ += met;
    if (met) return;
    if (!reason_.empty()) reason_ += "; ";
    reason_ += failure;
  }
  GenevalScore score() const {
    return {.strict = met_ == total_ ? 1.0 : 0.0,
            .soft = static_cast<double>(met_) / static_cast<double>(total_),
            .reason = reason_};
  }

 private:
  int64_t total_ = 0, met_ = 0;
  std::string reason_;
};

using Objects = std::vector<const Detection*>;

/// The objects that an entry speaks of: those of its class, and of its colour where another entry
/// shares the class.
Objects objects_of(const Requirement& entry, const GenevalRow& row, std::span<const Detection> detections) {
  const bool by_color = num_sharing(row, entry.class_name) > 1;
  Objects objects;
  for (const Detection& found : detections) {
    if (found.class_name == entry.class_name && (!by_color || found.color == entry.color)) objects.push_back(&found);
  }
  return objects;
}

int64_t count_of(const std::string& class_name, std::span<const Detection> detections) {
  return std::count_if(detections.begin(), detections.end(),
                       [&](const Detection& found) { return found.class_name == class_name; });
}

/// Classes that several entries name, with the number of objects they ask for together.
std::map<std::string, int64_t> shared_classes(const GenevalRow& row) {
  std::map<std::string, int64_t> totals;
  for (const Requirement& entry : row.include) {
    if (num_sharing(row, entry.class_name) > 1) totals[entry.class_name] += entry.count;
  }
  return totals;
}

/// The objects of a class that GenEval's evaluator takes for found, surest first.
Objects official_objects(const std::string& class_name, std::span<const Detection> detections, double min_confidence) {
  Objects objects;
  for (const Detection& found : detections) {
    if (found.confidence > min_confidence && found.class_name == class_name) objects.push_back(&found);
  }
  std::ranges::stable_sort(objects, std::ranges::greater(), &Detection::confidence);
  objects.resize(std::min(objects.size(), kMaxObjects));
  return objects;
}

std::string described(const Requirement& requirement) {
  return requirement.color.empty() ? requirement.class_name : requirement.color + " " + requirement.class_name;
}

void check_boxes(std::span<const Detection> detections, int image_width, int image_height) {
  for (const Detection& found : detections) {
    const bool within = found.left > -1 && found.top > -1 && found.right < image_width + 1.0 &&
                        found.bottom < image_height + 1.0 && found.left < found.right && found.top < found.bottom;
    if (!within) {
      throw RuntimeFailure("the detector's box [{}, {}, {}, {}] of a {} is not within the {}x{} image", found.left,
                           found.top, found.right, found.bottom, found.class_name, image_width, image_height);
    }
  }
}

class GenevalReward : public Reward {
 public:
  GenevalReward(GenevalMetric metric, std::unique_ptr<Detector> detector)
      : metric_(metric), detector_(std::move(detector)) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores(samples.size());
    std::vector<size_t> judged;
    std::vector<GenevalRow> rows;  // of the judged
    std::vector<const Image*> images;
    for (size_t n = 0; n < samples.size(); ++n) {
      scores[n].reason = unfit(samples[n]);
      if (scores[n].reason.empty()) {
        scores[n].reason = complaint_of([&] { rows.push_back(seen_row(samples[n].metadata_json)); });
      }
      if (!scores[n].reason.empty()) continue;
      judged.push_back(n);
      images.push_back(samples[n].last_image());
    }
    const std::vector<Detections> found = detector_->detect_all(images);
    for (size_t i = 0; i < judged.size(); ++i) {
      Score& score = scores[judged[i]];
      score.reason = found[i].failure;
      if (!score.reason.empty()) continue;
      score = judge(rows[i], found[i].objects, *images[i]);
    }
    return scores;
  }

  std::string missing_metadata(const std::string& metadata_json) const override {
    return complaint_of([&] { seen_row(metadata_json); });
  }
  std::vector<std::string> dimensions() const override { return geneval_dimensions(); }
  void new_step() override { detector_->new_step(); }

 private:
  Score judge(const GenevalRow& row, std::span<const Detection> found, const Image& image) const {
    const GenevalScore ours = score_geneval(row, found, image.width, image.height);
    if (metric_ != GenevalMetric::official) return to_score(ours, metric_);
    Score score = to_score(ours, GenevalMetric::strict);
    const OfficialScore official =
        score_official(row, found, detector_->min_confidence(row.counting), image.width, image.height);
    score.value = official.correct ? 1.0 : 0.0;
    score.reason = official.reason;
    return score;
  }

  /// Throws BadInput for a row that is none, or that the detector cannot see the objects of.
  GenevalRow seen_row(const std::string& metadata_json) const {
    GenevalRow row = parse_geneval_row(metadata_json);
    if (const std::string blind = blind_spot(row, *detector_); !blind.empty()) throw BadInput("{}", blind);
    return row;
  }

  /// Why a sample's image cannot be judged; empty where it can.
  static std::string unfit(const data::Sample& sample) {
    const Image* image = sample.last_image();
    if (image == nullptr) return "no image";
    return is_whole(*image) ? "" : "the image is empty";
  }

  GenevalMetric metric_;
  std::unique_ptr<Detector> detector_;
};

}  // namespace

GenevalRow read_geneval_row(const Json& json) {
  if (!json.is_object()) throw BadInput("metadata must be an object");
  if (!json.contains("include")) throw BadInput("'include' is missing");
  const auto tag = json.find("tag");
  GenevalRow row = {.include = parse_list(json, "include"),
                    .exclude = parse_list(json, "exclude"),
                    .counting = tag != json.end() && *tag == "counting"};
  if (row.include.empty()) throw BadInput("'include' is empty");
  std::set<std::pair<std::string, std::string>> seen;
  for (const Requirement& entry : row.include) {
    const bool distinct = seen.insert({entry.class_name, entry.color}).second;
    if (num_sharing(row, entry.class_name) > 1 && (entry.color.empty() || !distinct)) {
      throw BadInput("'include' entries that share the class '{}' need different colors", entry.class_name);
    }
  }
  return row;
}

GenevalRow parse_geneval_row(std::string_view metadata_json) {
  return read_geneval_row(io::parse_json(metadata_json, "metadata"));
}

GenevalScore score_geneval(const GenevalRow& row, std::span<const Detection> detections, int image_width,
                           int image_height) {
  check_boxes(detections, image_width, image_height);
  Tally tally;
  std::vector<Objects> groups;
  for (const Requirement& entry : row.include) {
    const Objects& objects = groups.emplace_back(objects_of(entry, row, detections));
    const std::string name = described(entry);
    tally.add(!objects.empty(), fmt::format("no {}", entry.class_name));
    tally.add(static_cast<int64_t>(objects.size()) == entry.count,
              fmt::format("expected {} {}, found {}", entry.count, entry.class_name, objects.size()));
    if (!entry.color.empty()) {
      const auto is_right = [&](const Detection* object) { return object->color == entry.color; };
      tally.add(!objects.empty() && std::all_of(objects.begin(), objects.end(), is_right),
                fmt::format("expected {} {}", entry.color, entry.class_name));
    }
    if (entry.position) {
      const Objects& targets = groups[entry.position->target];
      const bool holds = !objects.empty() && !targets.empty() &&
                         std::all_of(objects.begin(), objects.end(), [&](const Detection* object) {
                           return std::all_of(targets.begin(), targets.end(), [&](const Detection* target) {
                             return stands_in_relation(*object, *target, entry.position->relation);
                           });
                         });
      tally.add(holds, fmt::format("{} not {} {}", name, entry.position->relation,
                                   described(row.include[entry.position->target])));
    }
  }
  // Entries that share a class have each counted their own colour; an object of a third is surplus
  // all the same.
  for (const auto& [class_name, total] : shared_classes(row)) {
    const int64_t found = count_of(class_name, detections);
    tally.add(found == total, fmt::format("expected {} {} in all, found {}", total, class_name, found));
  }
  for (const Requirement& entry : row.exclude) {
    const int64_t found = count_of(entry.class_name, detections);
    tally.add(found < entry.count,
              fmt::format("expected fewer than {} {}, found {}", entry.count, entry.class_name, found));
  }
  return tally.score();
}

namespace {

/// Why an include entry is not met by the objects that count for it; empty where it is. `groups`: of the entries before
/// it, the objects that met each, or nothing.
std::string official_complaint(const Requirement& entry, const Objects& objects,
                               std::span<const std::optional<Objects>> groups) {
  const auto count = static_cast<size_t>(entry.count);
  if (objects.size() < count) {
    return fmt::format("expected {} or more {}, found {}", count, entry.class_name, objects.size());
  }
  if (!entry.color.empty()) {
    const auto right = std::ranges::count(objects, entry.color, &Detection::color);
    if (static_cast<size_t>(right) < count) {
      return fmt::format("expected {} or more {} {}, found {} among the surest", count, entry.color, entry.class_name,
                         right);
    }
  }
  if (!entry.position) return "";
  const std::optional<Objects>& targets = groups[entry.position->target];
  if (!targets) return fmt::format("nothing for {} to be {}", described(entry), entry.position->relation);
  for (const Detection* object : objects) {
    for (const Detection* target : *targets) {
      if (stands_in_relation(*object, *target, entry.position->relation)) continue;
      return fmt::format("{} not {} {}", described(entry), entry.position->relation, target->class_name);
    }
  }
  return "";
}

}  // namespace

OfficialScore score_official(const GenevalRow& row, std::span<const Detection> detections, double min_confidence,
                             int image_width, int image_height) {
  check_boxes(detections, image_width, image_height);
  Tally tally;
  std::vector<std::optional<Objects>> groups;
  for (const Requirement& entry : row.include) {
    Objects objects = official_objects(entry.class_name, detections, min_confidence);
    objects.resize(std::min(objects.size(), static_cast<size_t>(entry.count)));
    const std::string complaint = official_complaint(entry, objects, groups);
    tally.add(complaint.empty(), complaint);
    groups.push_back(complaint.empty() ? std::optional(std::move(objects)) : std::nullopt);
  }
  for (const Requirement& entry : row.exclude) {
    const size_t found = official_objects(entry.class_name, detections, min_confidence).size();
    tally.add(found < static_cast<size_t>(entry.count),
              fmt::format("expected fewer than {} {}, found {}", entry.count, entry.class_name, found));
  }
  const GenevalScore all = tally.score();
  return {.correct = all.strict == 1.0, .reason = all.reason};
}

std::string blind_spot(const GenevalRow& row, const Detector& detector) {
  for (const auto& [list, name] : {std::pair(&row.include, "include"), std::pair(&row.exclude, "exclude")}) {
    for (size_t i = 0; i < list->size(); ++i) {
      const std::string why = detector.blind_to((*list)[i].class_name, (*list)[i].color);
      if (!why.empty()) return fmt::format("'{}' entry {}: {}", name, i, why);
    }
  }
  return "";
}

Score to_score(const GenevalScore& found, GenevalMetric metric) {
  const auto value = [&] {
    switch (metric) {
      case GenevalMetric::strict:
        return found.strict;
      case GenevalMetric::soft:
        return found.soft;
      case GenevalMetric::mixed:
      case GenevalMetric::official:
        break;
    }
    return (found.strict + found.soft) / 2;
  };
  return {.value = value(), .reason = found.reason, .parts = {{"strict", found.strict}, {"soft", found.soft}}};
}

std::vector<std::string> geneval_dimensions() { return {"strict", "soft"}; }

std::unique_ptr<Reward> make_geneval_reward(GenevalMetric metric, std::unique_ptr<Detector> detector) {
  return std::make_unique<GenevalReward>(metric, std::move(detector));
}

}  // namespace unigrpo::reward
