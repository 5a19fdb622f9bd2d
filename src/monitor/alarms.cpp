#include "monitor/alarms.h"

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
    if (segment.kind == data::SampleSegment::Kind::text) texts.push_back(&segment);
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

std::optional<double> diversity_of_images(const Group& group) { return data::picture_diversity(images_of(group)); }

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
  double resolution;  // least standard deviation: a statistic that never moved must not alarm at the first pixel
};

constexpr std::array kStatistics = {
    Statistic{"brightness", mean_of_images<data::brightness>, 0.01},
    Statistic{"chroma", mean_of_images<data::chroma>, 0.01},
    Statistic{"dark_share", mean_of_images<data::dark_share>, 0.02},
    Statistic{"saturated_share", mean_of_images<data::saturated_share>, 0.01},
    Statistic{"edge_density", mean_of_images<data::edge_density>, 0.01},
    Statistic{"color_entropy", mean_of_images<data::color_entropy>, 0.1},
    Statistic{"picture_diversity", diversity_of_images, 0.02},
    Statistic{"text_length", mean_of_texts<tokens_of>, 2.0},
    Statistic{"text_repetition", mean_of_texts<repetition_of>, 0.05},
    Statistic{"text_diversity", diversity_of_texts, 0.05},
};
static_assert(std::ranges::equal(kStatistics, kAlarmStatistics, {}, &Statistic::name));

const Statistic& statistic_of(std::string_view name) {
  const auto found = std::find_if(kStatistics.begin(), kStatistics.end(),
                                  [&](const Statistic& statistic) { return statistic.name == name; });
  if (found == kStatistics.end()) throw BadInput("monitor.alarms.statistics: unknown statistic '{}'", name);
  return *found;
}

std::vector<Group> groups_of(std::span<const data::Sample> samples) {
  std::map<int64_t, Group> groups;
  for (const data::Sample& sample : samples) groups[sample.group].push_back(&sample);
  std::vector<Group> list;
  for (auto& [id, group] : groups) list.push_back(std::move(group));
  return list;
}

std::vector<double> values_of(const Statistic& statistic, std::span<const Group> groups) {
  std::vector<double> values;
  for (const Group& group : groups) {
    if (const auto value = statistic.of_group(group)) values.push_back(*value);
  }
  return values;
}

double mean_of(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

}  // namespace

std::string describe(const Alarm& alarm) {
  return fmt::format("alarm at step {}: {} has {} from {:.3g} to {:.3g} ({:+.1f} standard deviations between the prompts of the "
                     "first steps); look at the samples",
                     alarm.step, alarm.statistic, alarm.shift > 0 ? "risen" : "fallen", alarm.reference, alarm.value,
                     alarm.shift);
}

Alarms::Alarms(const AlarmsConfig& config) : config_(config) {
  if (!config_.enabled) return;
  for (const std::string& name : config_.statistics) tracks_[std::string(statistic_of(name).name)] = {};
  if (!config_.statistics.empty()) return;
  for (const Statistic& statistic : kStatistics) tracks_[std::string(statistic.name)] = {};
}

void Alarms::add_reference(Track& track, std::span<const double> groups) const {
  for (const double value : groups) {  // Welford
    ++track.groups;
    const double from_mean = value - track.mean;
    track.mean += from_mean / static_cast<double>(track.groups);
    track.square += from_mean * (value - track.mean);
  }
  ++track.steps;
}

double Alarms::shift_of(const std::string& statistic, const Track& track, double value) const {
  const double variance = track.groups > 1 ? track.square / static_cast<double>(track.groups - 1) : 0;
  return (value - track.mean) / std::max(std::sqrt(variance), statistic_of(statistic).resolution);
}

Alarms::Observation Alarms::observe(int64_t step, std::span<const data::Sample> samples) {
  Observation out;
  const std::vector<Group> groups = groups_of(samples);
  for (auto& [name, track] : tracks_) {
    const std::vector<double> values = values_of(statistic_of(name), groups);
    if (values.empty()) continue;
    const double value = mean_of(values);
    out.metrics["alarm/" + name] = value;
    if (track.steps < config_.reference_steps) {
      add_reference(track, values);
      continue;
    }
    const double shift = shift_of(name, track, value);
    out.metrics["alarm_shift/" + name] = shift;
    track.high = std::max(0.0, track.high + shift - config_.allowance);
    track.low = std::max(0.0, track.low - shift - config_.allowance);
    if (track.raised || std::max(track.high, track.low) <= config_.threshold) continue;
    track.raised = true;
    out.metrics["alarm_raised/" + name] = track.high > track.low ? 1 : -1;
    out.raised.push_back({.statistic = name, .step = step, .reference = track.mean, .value = value, .shift = shift});
  }
  return out;
}

std::map<std::string, std::string> Alarms::state() const {
  std::map<std::string, std::string> state;
  for (const auto& [name, t] : tracks_) {  // {} is the shortest spelling that reads back as the same double
    state["alarm/" + name] =
        fmt::format("{} {} {} {} {} {} {}", t.steps, t.groups, t.mean, t.square, t.high, t.low, t.raised ? 1 : 0);
  }
  return state;
}

void Alarms::restore(const std::map<std::string, std::string>& state, const std::string& where) {
  for (auto& [name, track] : tracks_) {
    const auto entry = state.find("alarm/" + name);
    if (entry == state.end()) continue;
    std::istringstream in(entry->second);
    Track t;
    std::string rest;
    if (!(in >> t.steps >> t.groups >> t.mean >> t.square >> t.high >> t.low >> t.raised) || in >> rest) {
      throw BadInput("{}: {}: expected seven numbers, found '{}'", where, entry->first, entry->second);
    }
    track = t;
  }
}

}  // namespace unigrpo::monitor
