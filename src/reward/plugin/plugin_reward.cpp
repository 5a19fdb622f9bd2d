#include "reward/plugin/plugin_reward.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/left_behind.h"
#include "base/log.h"
#include "base/text.h"
#include "base/utf8.h"
#include "reward/plugin/library.h"
#include "reward/plugin/process.h"
#include "reward/rules.h"

namespace unigrpo::reward {
namespace {

namespace fs = std::filesystem;
using plugin::Answer, plugin::Description, plugin::ImageView, plugin::Judge, plugin::SampleView, plugin::SegmentView,
    plugin::Verdict;

constexpr double kStart_s = 60;  // a scorer may have a model to load; timeout_s counts where it is longer

/// "scorer.so", "scorer.so.1"; anything else is a program.
bool is_library(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".so") || name.find(".so.") != std::string::npos;
}

fs::path checked_path(const PluginConfig& config) {
  if (config.path.empty()) throw BadInput("path: missing (the plugin's file)");
  plugin::check_plugin_file(config.path);
  const fs::path path = fs::canonical(config.path);
  if (is_library(path)) return path;
  if (access(path.c_str(), X_OK) != 0) {
    throw BadInput("{}: neither a shared library (.so) nor a program (chmod +x it)", config.path);
  }
  if (config.isolate == Isolation::none) {
    throw BadInput("{}: a program cannot run inside of this process; isolate = \"none\" is for shared libraries",
                   config.path);
  }
  return path;
}

/// A plugin's words on one line of a log.
std::string one_line(std::string_view words) {
  constexpr size_t kMaxBytes = 1000;
  std::string text = valid_utf8(words, kMaxBytes);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  return text;
}

ImageView view_of(const Image& image) {
  return {image.pixels.data(), image.width, image.height, int64_t{3} * image.width};
}

/// Sampled text may stop in the middle of a character: every plugin sees U+FFFD there.
SampleView view_of(const data::Sample& sample) {
  SampleView view{.id = valid_utf8(sample.id),
                  .prompt = valid_utf8(sample.prompt),
                  .metadata_json = sample.metadata_json.empty() ? "{}" : sample.metadata_json,
                  .group = sample.group,
                  .segments = {},
                  .images = {}};
  for (const data::SampleSegment& segment : sample.segments) {
    if (segment.kind == data::SegmentKind::av) continue;  // the protocol has no clips yet
    SegmentView& out = view.segments.emplace_back();
    if (segment.kind == data::SegmentKind::image) {
      out.kind = SegmentView::Kind::image;
      out.image = view_of(segment.image);
    } else {
      out.text = valid_utf8(segment.text);
      out.num_tokens = segment.num_tokens;
      out.finished = segment.finished;
    }
  }
  for (const auto& image : sample.images) view.images.push_back(view_of(*image));
  return view;
}

Score score_of(Verdict verdict, const Description& description) {
  Score score{.value = verdict.values[0],
              .reason = one_line(verdict.reasons[0]),
              .parts = {},
              .missing = {},
              .notes = std::move(verdict.notes)};
  if (description.dimensions.size() == 1) return score;
  for (size_t k = 0; k < description.dimensions.size(); ++k) {
    const std::string& name = description.dimensions[k].name;
    if (verdict.values[k]) {
      score.parts[name] = *verdict.values[k];
    } else {
      score.missing[name] = k == 0 ? score.reason : one_line(verdict.reasons[k]);
    }
  }
  return score;
}

Score failed_score(const std::string& reason, const Description& description) {
  Verdict verdict = plugin::open_verdict(description);
  verdict.reasons.assign(description.dimensions.size(), reason);
  return score_of(std::move(verdict), description);
}

/// Neighbouring units in batches of at most `batch_size` samples; a larger unit is a batch of its own.
template <typename Unit>
std::vector<std::span<const Unit>> batches_of(const std::vector<Unit>& units, size_t batch_size) {
  std::vector<std::span<const Unit>> batches;
  for (size_t first = 0, next = 0; first < units.size(); first = next) {
    size_t num_samples = 0;
    while (next < units.size() && (next == first || num_samples + units[next].size() <= batch_size)) {
      num_samples += units[next++].size();
    }
    batches.push_back(std::span(units).subspan(first, next - first));
  }
  return batches;
}

/// Runs work(thread, index) for every index below `count`. The first exception of a thread ends it, and is thrown at
/// the end.
void run_in_threads(size_t num_threads, size_t count, const std::function<void(size_t, size_t)>& work) {
  std::atomic<size_t> next{0};
  std::vector<std::exception_ptr> failures(num_threads);
  const auto loop = [&](size_t thread) {
    try {
      for (size_t index = 0; (index = next++) < count;) work(thread, index);
    } catch (...) {
      failures[thread] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (size_t thread = 1; thread < std::min(num_threads, count); ++thread) threads.emplace_back(loop, thread);
    loop(0);
  }
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace

PluginReward::PluginReward(std::string name, const PluginConfig& config, StopToken stop)
    : name_(std::move(name)), config_(config), stop_(stop) {
  try {
    const fs::path path = checked_path(config_);
    path_ = path.string();
    copy_ = std::make_unique<plugin::FileCopy>(path);
    do {
      if (owned_.empty() || config_.isolate == Isolation::process) owned_.push_back(make_judge());
      judges_.push_back(owned_.back().get());
    } while (static_cast<int64_t>(judges_.size()) < description().threads);
  } catch (const BadInput& error) {
    if (stop_.requested()) throw Interrupted(fmt::format("{}: reward '{}' was not ready yet", stop_.signal(), name_));
    throw BadInput("reward '{}': {}", name_, error.what());
  }
}

PluginReward::~PluginReward() = default;

std::unique_ptr<Judge> PluginReward::make_judge() const {
  if (config_.isolate == Isolation::none) {
    const auto library = std::make_shared<std::unique_ptr<Judge>>();
    run_leavable(stop_, fmt::format("reward '{}' was not ready yet", name_),
                 [library, path = path_, settings = config_.settings, copy = copy_->descriptor()] {
                   *library = std::make_unique<plugin::Library>(path, settings, copy);
                 });
    return std::move(*library);
  }
  return std::make_unique<plugin::Worker>(
      plugin::WorkerOptions{.reward = name_,
                            .path = path_,
                            .is_program = !is_library(path_),
                            .copy = copy_->descriptor(),
                            .sha256 = sha256(),
                            .settings_json = config_.settings,
                            .timeout_s = config_.timeout_s,
                            .start_timeout_s = std::max(kStart_s, config_.timeout_s),
                            .memory_bytes = static_cast<uint64_t>(config_.max_memory_gib * (1 << 30)),
                            .stop = stop_});
}

const Description& PluginReward::description() const { return owned_[0]->description(); }

std::vector<std::string> PluginReward::dimensions() const {
  std::vector<std::string> names;
  for (const plugin::Dimension& dimension : description().dimensions) names.push_back(dimension.name);
  return names;
}

std::string PluginReward::introduction() const {
  return fmt::format("reward '{}': {} (SHA-256 {}), isolate {}, batches of {}, {} at once, scores {}", name_, path_,
                     sha256(), enum_name(config_.isolate), description().batch_size, description().threads,
                     join(dimensions(), ", "));
}

std::vector<Score> PluginReward::score(std::span<const data::Sample> samples) {
  if (!std::exchange(introduced_, true)) log::info(introduction());
  std::vector<SampleView> views;
  for (const data::Sample& sample : samples) views.push_back(view_of(sample));
  const std::vector<Unit> units = units_of(samples);
  const auto batches = batches_of(units, static_cast<size_t>(description().batch_size));

  std::vector<Score> scores(samples.size());
  run_in_threads(judges_.size(), batches.size(),
                 [&](size_t thread, size_t index) { judge_batch(*judges_[thread], views, batches[index], scores); });
  return scores;
}

std::vector<PluginReward::Unit> PluginReward::units_of(std::span<const data::Sample> samples) const {
  std::vector<Unit> units;
  std::map<int64_t, size_t> unit_of_group;
  for (size_t n = 0; n < samples.size(); ++n) {
    const auto [found, is_new] = unit_of_group.emplace(samples[n].group, units.size());
    if (is_new || !description().wants_groups) {
      units.push_back({n});
    } else {
      units[found->second].push_back(n);
    }
  }
  return units;
}

/// A call that fails is repeated unit by unit: one sample's crash must not cost the others their scores. Once a stop is
/// asked for, nothing is called any more.
void PluginReward::judge_batch(Judge& judge, std::span<const SampleView> views, std::span<const Unit> units,
                               std::vector<Score>& scores) const {
  const auto fail = [&](const std::string& reason) {
    for (const Unit& unit : units) {
      for (const size_t n : unit) scores[n] = failed_score(reason, description());
    }
  };
  if (stop_.requested()) return fail(fmt::format("not judged: {}", stop_.signal()));
  const std::optional<std::string> error = judge_units(judge, views, units, scores);
  if (!error) return;
  if (units.size() == 1 || stop_.requested()) return fail(*error);
  log::warn(fmt::format("reward '{}': a call failed ({}); its samples are judged one by one", name_, *error));
  for (size_t u = 0; u < units.size(); ++u) judge_batch(judge, views, units.subspan(u, 1), scores);
}

/// One call for all units: nothing, or why it failed as a whole.
std::optional<std::string> PluginReward::judge_units(Judge& judge, std::span<const SampleView> views,
                                                     std::span<const Unit> units, std::vector<Score>& scores) const {
  std::vector<size_t> rows;
  for (const Unit& unit : units) rows.insert(rows.end(), unit.begin(), unit.end());
  std::vector<SampleView> batch;
  for (const size_t n : rows) batch.push_back(views[n]);
  Answer answer = judge.score(batch);
  if (!answer.succeeded) return one_line(answer.error);
  for (size_t i = 0; i < rows.size(); ++i) scores[rows[i]] = score_of(std::move(answer.verdicts[i]), description());
  return std::nullopt;
}

std::unique_ptr<PluginReward> make_plugin_reward(const TermConfig& term, StopToken stop) {
  return std::make_unique<PluginReward>(term_name(term), term.plugin, stop);
}

}  // namespace unigrpo::reward
