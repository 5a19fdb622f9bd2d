#include "monitor/drift_monitor.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <sstream>
#include <string_view>

#include "base/error.h"
#include "data/sample_statistics.h"

namespace unigrpo::monitor {
namespace {

using Group = std::vector<const data::Sample*>;
using OfGroup = std::optional<double> (*)(const Group& group);

std::vector<const Image*> images_of(const Group& group) {
  std::vector<const Image*> images;
  for (const data::Sample* sample : group) {
    const Image* image = sample->last_image();
    if (image != nullptr && !image->pixels.empty()) images.push_back(image);
  }
  return images;
}

std::vector<const data::SampleSegment*> texts_of(const data::Sample& sample) {
  std::vector<const data::SampleSegment*> texts;
  for (const data::SampleSegment& segment : sample.segments) {
    if (segment.kind == data::SegmentKind::text) texts.push_back(&segment);
  }
  return texts;
}

/// Mean of `value` over the group's images.
template <double (*value)(const Image&)>
std::optional<double> mean_of_images(const Group& group) {
  const auto images = images_of(group);
  if (images.empty()) return std::nullopt;
  double sum = 0;
  for (const Image* image : images) sum += value(*image);
  return sum / static_cast<double>(images.size());
}

std::optional<double> diversity_of_images(const Group& group) { return data::image_diversity(images_of(group)); }

/// Mean over the group's samples that have a text of the sum of `value` over a sample's texts.
template <double (*value)(const data::SampleSegment&)>
std::optional<double> mean_of_texts(const Group& group) {
  double sum = 0, count = 0;
  for (const data::Sample* sample : group) {
    const auto texts = texts_of(*sample);
    for (const data::SampleSegment* text : texts) sum += value(*text);
    count += texts.empty() ? 0 : 1;
  }
  if (count == 0) return std::nullopt;
  return sum / count;
}

double tokens_of(const data::SampleSegment& text) { return static_cast<double>(text.num_tokens); }
double repetition_of(const data::SampleSegment& text) { return data::text_repetition(text.text); }

std::optional<double> diversity_of_texts(const Group& group) {
  if (group.size() < 2) return std::nullopt;
  std::vector<std::string_view> texts;
  for (const data::Sample* sample : group) {
    for (const data::SampleSegment* text : texts_of(*sample)) texts.push_back(text->text);
  }
  return data::text_diversity(texts);
}

struct Statistic {
  std::string_view name;
  OfGroup of_group;
  double resolution;         // least standard deviation: a statistic that never moved must not alarm at the first pixel
  double patience = 1;       // factor on the allowance
  double least_of_mean = 0;  // least standard deviation as a share of the mean
};

/// A policy that learns becomes certain, and its answers to a prompt alike.
constexpr double kDiversityPatience = 4;
/// Plans of one kind are about as long for every prompt, and a word more in them is nothing.
constexpr double kLeastOfLength = 0.5;

constexpr std::array kStatistics = {
    Statistic{"brightness", mean_of_images<data::brightness>, 0.01},
    Statistic{"chroma", mean_of_images<data::chroma>, 0.01},
    Statistic{"dark_share", mean_of_images<data::dark_share>, 0.02},
    Statistic{"saturated_share", mean_of_images<data::saturated_share>, 0.01},
    Statistic{"edge_density", mean_of_images<data::edge_density>, 0.01},
    Statistic{"color_entropy", mean_of_images<data::color_entropy>, 0.1},
    Statistic{"image_diversity", diversity_of_images, 0.02, kDiversityPatience},
    Statistic{"text_length", mean_of_texts<tokens_of>, 2.0, 1, kLeastOfLength},
    Statistic{"text_repetition", mean_of_texts<repetition_of>, 0.05},
    Statistic{"text_diversity", diversity_of_texts, 0.05, kDiversityPatience},
};
static_assert(std::ranges::equal(kStatistics, kDriftStatistics, {}, &Statistic::name));

const Statistic& statistic_of(std::string_view name) {
  const auto found = std::find_if(kStatistics.begin(), kStatistics.end(),
                                  [&](const Statistic& statistic) { return statistic.name == name; });
  if (found == kStatistics.end()) throw BadInput("monitor.drift.statistics: unknown statistic '{}'", name);
  return *found;
}

std::map<int64_t, Group> groups_of(std::span<const data::Sample> samples) {
  std::map<int64_t, Group> groups;
  for (const data::Sample& sample : samples) groups[sample.group].push_back(&sample);
  return groups;
}

std::map<int64_t, double> values_of(const Statistic& statistic, const std::map<int64_t, Group>& groups) {
  std::map<int64_t, double> values;
  for (const auto& [id, group] : groups) {
    if (const auto value = statistic.of_group(group)) values[id] = *value;
  }
  return values;
}

double mean_of(const std::map<int64_t, double>& values) {
  double sum = 0;
  for (const auto& [id, value] : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// Standard deviation between the groups, not below what the statistic resolves.
double deviation_of(const Statistic& statistic, const std::map<int64_t, double>& values) {
  const double mean = mean_of(values);
  const double least = std::max(statistic.resolution, statistic.least_of_mean * mean);
  if (values.size() < 2) return least;
  double sum = 0;
  for (const auto& [id, value] : values) sum += (value - mean) * (value - mean);
  return std::max(least, std::sqrt(sum / static_cast<double>(values.size() - 1)));
}

/// By how much the values of groups that are in both maps differ in the mean.
std::optional<double> mean_difference(const std::map<int64_t, double>& values,
                                      const std::map<int64_t, double>& reference) {
  double sum = 0, count = 0;
  for (const auto& [id, value] : values) {
    const auto found = reference.find(id);
    if (found == reference.end()) continue;
    sum += value - found->second;
    ++count;
  }
  if (count == 0) return std::nullopt;
  return sum / count;
}

}  // namespace

ProbePlan plan_probes(const DriftConfig& config, int64_t rollouts) {
  constexpr int64_t kFewestPrompts = 4;
  const int64_t as_a_step = std::max(kFewestPrompts, rollouts / config.samples);
  ProbePlan plan{.prompts = std::min(config.prompts, as_a_step), .samples = config.samples};
  const double allowed = config.max_share * static_cast<double>(rollouts);  // samples a step
  const auto least = static_cast<int64_t>(std::ceil(static_cast<double>(plan.prompts * plan.samples) / allowed));
  plan.period = std::max(config.every, least);
  plan.stretched = least > config.every;
  return plan;
}

std::string describe(const DriftConfig& config, int64_t rollouts) {
  if (!config.enabled) return "off";
  const ProbePlan plan = plan_probes(config, rollouts);
  return fmt::format("{} x {} every {} ({:.1f}% of the samples)", plan.prompts, plan.samples,
                     plan.period == 1 ? "step" : fmt::format("{} steps", plan.period),
                     100 * plan.samples_a_step() / static_cast<double>(rollouts));
}

std::string describe(const DriftAlarm& alarm) {
  return fmt::format(
      "alarm at step {}: {} has {} from {:.3g} to {:.3g} ({:+.1f} standard deviations between prompts); look at "
      "the samples",
      alarm.step, alarm.statistic, alarm.shift > 0 ? "risen" : "fallen", alarm.reference, alarm.value, alarm.shift);
}

DriftMonitor::DriftMonitor(const DriftConfig& config) : config_(config) {
  if (!config_.enabled) return;
  for (const std::string& name : config_.statistics) tracks_[std::string(statistic_of(name).name)] = {};
  if (!config_.statistics.empty()) return;
  for (const Statistic& statistic : kStatistics) tracks_[std::string(statistic.name)] = {};
}

DriftMonitor::Measured DriftMonitor::measure(std::span<const data::Sample> samples) const {
  const std::map<int64_t, Group> groups = groups_of(samples);
  Measured measured;
  for (const auto& [name, track] : tracks_) measured[name] = values_of(statistic_of(name), groups);
  return measured;
}

DriftMonitor::Observation DriftMonitor::observe(int64_t step, const Measured& measured) {
  Observation out;
  for (auto& [name, track] : tracks_) {
    const Statistic& statistic = statistic_of(name);
    const std::map<int64_t, double>& values = measured.at(name);
    if (values.empty()) continue;
    const double value = mean_of(values);
    out.metrics["drift/" + name] = value;
    if (track.reference.empty()) {
      track.reference = values;
      continue;
    }
    const std::optional<double> difference = mean_difference(values, track.reference);
    if (!difference) continue;
    const double shift = *difference / deviation_of(statistic, track.reference);
    out.metrics["drift_shift/" + name] = shift;
    const double allowance = config_.allowance * statistic.patience;
    track.high = std::max(0.0, track.high + shift - allowance);
    track.low = std::max(0.0, track.low - shift - allowance);
    if (track.raised || std::max(track.high, track.low) <= config_.threshold) continue;
    track.raised = true;
    out.metrics["drift_raised/" + name] = track.high > track.low ? 1 : -1;
    out.raised.push_back(
        {.statistic = name, .step = step, .reference = mean_of(track.reference), .value = value, .shift = shift});
  }
  return out;
}

std::map<std::string, std::string> DriftMonitor::state() const {
  std::map<std::string, std::string> state;
  for (const auto& [name, t] : tracks_) {  // {} is the shortest spelling that reads back as the same double
    std::string& text = state["drift/" + name] = fmt::format("{} {} {}", t.high, t.low, t.raised ? 1 : 0);
    for (const auto& [group, value] : t.reference) text += fmt::format(" {} {}", group, value);
  }
  return state;
}

void DriftMonitor::restore(const std::map<std::string, std::string>& state, const std::string& where) {
  for (auto& [name, track] : tracks_) {
    const auto entry = state.find("drift/" + name);
    if (entry == state.end()) continue;
    std::istringstream in(entry->second);
    Track t;
    bool good = static_cast<bool>(in >> t.high >> t.low >> t.raised);
    for (int64_t group = 0; good && !(in >> std::ws).eof();) {
      double value = 0;
      good = static_cast<bool>(in >> group >> value);
      t.reference[group] = value;
    }
    if (!good) {
      throw BadInput("{}: {}: expected both sums, 0 or 1, and pairs of a group and its value, found '{}'", where,
                     entry->first, entry->second);
    }
    track = std::move(t);
  }
}

}  // namespace unigrpo::monitor
