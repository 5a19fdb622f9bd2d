#include "reward/rewarder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "base/enum_names.h"
#include "base/error.h"
#include "base/text.h"
#include "reward/builtin/answer.h"
#include "reward/builtin/color_detector.h"
#include "reward/builtin/edit.h"
#include "reward/builtin/format.h"
#include "reward/builtin/geneval.h"
#include "reward/builtin/last_image.h"
#include "reward/builtin/ocr.h"
#include "reward/builtin/text_rules.h"
#include "reward/http/http_reward.h"
#include "reward/plugin/plugin_reward.h"
#include "reward/rules.h"

namespace unigrpo::reward {
namespace {

/// What makes the reward behind a term, without what is made of its scores.
TermConfig reward_of(const TermConfig& term) {
  TermConfig reward = term;
  const TermConfig defaults;
  reward.name = defaults.name;
  reward.weight = defaults.weight;
  reward.dimension = defaults.dimension;
  reward.modality = defaults.modality;
  reward.scale = defaults.scale;
  reward.clip = defaults.clip;
  reward.gate = defaults.gate;
  reward.gate_min = defaults.gate_min;
  return reward;
}

/// Scores with the border checked: one a sample, and no number that is not one.
std::vector<Score> checked_scores(Reward& reward, const std::string& name, std::span<const data::Sample> samples) {
  std::vector<Score> scores = reward.score(samples);
  if (scores.size() != samples.size()) {
    throw RuntimeFailure("reward '{}' gave {} scores for {} samples", name, scores.size(), samples.size());
  }
  for (Score& score : scores) {
    if (score.value && !std::isfinite(*score.value)) {
      score.reason = fmt::format("the score is {}", *score.value);
      score.value.reset();
    }
    for (const auto& [name_of_part, value] : score.parts) {
      if (!std::isfinite(value)) score.missing[name_of_part] = fmt::format("the score is {}", value);
    }
    std::erase_if(score.parts, [](const auto& part) { return !std::isfinite(part.second); });
  }
  return scores;
}

/// Judges the samples without a score once more; those of a group together with all of it where the reward compares.
void retry_failed(Reward& reward, const std::string& name, std::span<const data::Sample> samples,
                  std::vector<Score>& scores) {
  std::set<int64_t> groups;
  for (size_t n = 0; n < scores.size(); ++n) {
    if (!scores[n].value) groups.insert(samples[n].group);
  }
  std::vector<size_t> places;
  std::vector<data::Sample> again;
  for (size_t n = 0; n < scores.size(); ++n) {
    if (reward.wants_groups() ? !groups.contains(samples[n].group) : scores[n].value.has_value()) continue;
    places.push_back(n);
    again.push_back(samples[n]);
  }
  if (again.empty()) return;
  std::vector<Score> second = checked_scores(reward, name, again);
  for (size_t i = 0; i < places.size(); ++i) scores[places[i]] = std::move(second[i]);
}

std::unique_ptr<Detector> make_detector(const TermConfig& term, StopToken stop) {
  return term.objects.detector == DetectorKind::http ? make_http_detector(term, stop) : make_color_detector();
}

}  // namespace

/// One reward and the thread that calls it.
class Rewarder::Judge {
 public:
  Judge(std::unique_ptr<Reward> reward, std::string name, OnError on_error, StopToken stop)
      : reward_(std::move(reward)), name_(std::move(name)), on_error_(on_error), stop_(stop), thread_([this] {
          work();
        }) {}

  ~Judge() {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
      waiting_.clear();
    }
    changed_.notify_all();
    thread_.join();
  }

  const Reward& reward() const { return *reward_; }

  void submit(size_t first, std::shared_ptr<const std::vector<data::Sample>> samples) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.push_back({first, std::move(samples)});
    }
    changed_.notify_all();
  }

  /// By row. Waits for all that was submitted; throws what the reward threw.
  std::map<size_t, Score> collect() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_.empty() && !busy_; });
    const std::exception_ptr failure = std::exchange(failure_, nullptr);
    std::map<size_t, Score> scores = std::exchange(scores_, {});
    if (failure) std::rethrow_exception(failure);
    return scores;
  }

 private:
  struct Job {
    size_t first;
    std::shared_ptr<const std::vector<data::Sample>> samples;
  };

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return closing_ || !waiting_.empty(); });
      if (closing_) return;
      const Job job = std::move(waiting_.front());
      waiting_.pop_front();
      busy_ = true;
      lock.unlock();
      std::vector<Score> scores;
      std::exception_ptr failure;
      try {
        scores = checked_scores(*reward_, name_, *job.samples);
        if (on_error_ == OnError::retry && !stop_.requested()) retry_failed(*reward_, name_, *job.samples, scores);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      busy_ = false;
      if (failure && !failure_) failure_ = failure;
      for (size_t i = 0; i < scores.size(); ++i) scores_[job.first + i] = std::move(scores[i]);
      changed_.notify_all();
    }
  }

  std::unique_ptr<Reward> reward_;
  const std::string name_;
  const OnError on_error_;
  const StopToken stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  bool busy_ = false, closing_ = false;
  std::map<size_t, Score> scores_;
  std::exception_ptr failure_;
  std::thread thread_;  // last: it uses all of the above
};

std::unique_ptr<Reward> make_reward(const TermConfig& term, StopToken stop) {
  switch (term.kind) {
    case RewardKind::geneval:
      return make_geneval_reward(term.objects.metric, make_detector(term, stop));
    case RewardKind::edit:
      return make_edit_reward(term.objects.metric, make_detector(term, stop));
    case RewardKind::answer:
      return make_answer_reward();
    case RewardKind::format:
      return make_format_reward();
    case RewardKind::text_rules:
      return make_text_rules_reward(term.text_rules);
    case RewardKind::ocr:
      return make_ocr_reward();
    case RewardKind::jpeg:
      return make_jpeg_reward(term.jpeg.prefer);
    case RewardKind::brightness:
      return make_brightness_reward();
    case RewardKind::saturation:
      return make_saturation_reward();
    case RewardKind::http:
      return make_http_reward(term, stop);
    case RewardKind::plugin:
      return make_plugin_reward(term);
    case RewardKind::clip_score:
    case RewardKind::pick_score:
    case RewardKind::hps:
    case RewardKind::aesthetic:
      throw BadInput("reward '{}' is a network: it needs a build with LibTorch", enum_name(term.kind));
  }
  throw RuntimeFailure("unknown reward kind {}", static_cast<int>(term.kind));
}

Score term_score(const TermConfig& term, const Score& score) {
  if (term.dimension.empty()) return score;
  Score own{.value = std::nullopt, .reason = score.reason, .parts = {}, .missing = {}, .notes = score.notes};
  if (const auto part = score.parts.find(term.dimension); part != score.parts.end()) {
    own.value = part->second;
  } else if (const auto why = score.missing.find(term.dimension); why != score.missing.end()) {
    own.reason = why->second;
  } else if (score.value) {
    std::vector<std::string> names;
    for (const auto& [name, value] : score.parts) names.push_back(name);
    own.reason = fmt::format("no dimension '{}', the reward gives: {}", term.dimension, join(names, ", "));
  }
  return own;
}

Rewarder::Rewarder(const RewardConfig& config, const Make& make, StopToken stop) : config_(config), stop_(stop) {
  std::set<std::string> names;
  for (size_t k = 0; k < config_.terms.size(); ++k) {
    TermConfig& term = config_.terms[k];
    term.name = term_name(term);
    if (!names.insert(term.name).second) {
      throw BadInput("rewards: the name '{}' is given twice; expected a name of its own for each term", term.name);
    }
    size_t other = 0;
    while (other < k && reward_of(config_.terms[other]) != reward_of(term)) ++other;
    if (other == k) judges_.push_back(std::make_unique<Judge>(make(term), term.name, config_.on_error, stop_));
    judge_of_.push_back(other == k ? judges_.size() - 1 : judge_of_[other]);
    if (term.dimension.empty()) continue;
    const std::vector<std::string> known = judges_[judge_of_[k]]->reward().dimensions();
    if (!known.empty() && std::ranges::find(known, term.dimension) == known.end()) {
      throw BadInput("rewards: the reward of '{}' has no dimension '{}'; expected one of {}", term.name, term.dimension,
                     join(known, ", "));
    }
  }
}

Rewarder::Rewarder(Rewarder&&) noexcept = default;
Rewarder::~Rewarder() = default;

void Rewarder::submit(size_t first, std::vector<data::Sample> samples) {
  ids_.resize(std::max(ids_.size(), first + samples.size()));
  for (size_t i = 0; i < samples.size(); ++i) ids_[first + i] = samples[i].id;
  const auto shared = std::make_shared<const std::vector<data::Sample>>(std::move(samples));
  for (const auto& judge : judges_) judge->submit(first, shared);
}

ScoreTable Rewarder::collect() {
  ScoreTable table;
  const std::vector<std::string> ids = std::exchange(ids_, {});
  table.scores.resize(ids.size());
  std::vector<std::map<size_t, Score>> judged;
  std::exception_ptr failure;  // all are waited for, so that the next step starts clean
  for (const auto& judge : judges_) {
    try {
      judged.push_back(judge->collect());
    } catch (...) {
      if (!failure) failure = std::current_exception();
      judged.emplace_back();
    }
  }
  if (failure) std::rethrow_exception(failure);
  for (size_t k = 0; k < config_.terms.size(); ++k) {
    const TermConfig& term = config_.terms[k];
    table.terms.push_back(term.name);
    table.weights.push_back(term.weight);
    table.modality.push_back(term.modality);
    const auto& scores = judged[judge_of_[k]];
    for (size_t n = 0; n < table.scores.size(); ++n) {
      const auto found = scores.find(n);
      table.scores[n].push_back(found == scores.end()
                                    ? Score{.value = std::nullopt, .reason = "not judged", .parts = {}}
                                    : term_score(term, found->second));
      if (config_.on_error == OnError::stop && !table.scores[n].back().value && !stop_.requested()) {
        throw RuntimeFailure("reward '{}' has no score for sample {}: {} (reward.on_error = stop)", term.name, ids[n],
                             table.scores[n].back().reason);
      }
    }
  }
  return table;
}

ScoreTable Rewarder::score(std::span<const data::Sample> samples) {
  submit(0, {samples.begin(), samples.end()});
  return collect();
}

void Rewarder::check_prompts(std::span<const data::Prompt> prompts, const std::string& file) const {
  for (const data::Prompt& prompt : prompts) {
    for (size_t k = 0; k < config_.terms.size(); ++k) {
      const std::string missing = judges_[judge_of_[k]]->reward().missing_metadata(prompt.metadata_json);
      if (!missing.empty()) {
        throw BadInput("{}:{}: reward '{}' cannot judge this row: {}", file, prompt.line, config_.terms[k].name,
                       missing);
      }
    }
  }
}

}  // namespace unigrpo::reward
