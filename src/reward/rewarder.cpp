#include "reward/rewarder.h"

#include <cmath>
#include <set>
#include <string>
#include <utility>

#include "base/enum_names.h"
#include "base/error.h"
#include "reward/builtin/answer.h"
#include "reward/builtin/color_detector.h"
#include "reward/builtin/edit.h"
#include "reward/builtin/format.h"
#include "reward/builtin/geneval.h"
#include "reward/builtin/saturation.h"
#include "reward/plugin/plugin_reward.h"

namespace unigrpo::reward {
namespace {

std::string term_name(const TermConfig& term) {
  return term.name.empty() ? std::string(enum_name(term.kind)) : term.name;
}

/// Scores with the border checked: one a sample, and no number that is not one.
std::vector<Score> checked_scores(Reward& reward, const std::string& name,
                                  std::span<const data::Sample> samples) {
  std::vector<Score> scores = reward.score(samples);
  if (scores.size() != samples.size()) {
    throw RuntimeFailure("reward '{}' gave {} scores for {} samples", name, scores.size(),
                         samples.size());
  }
  for (Score& score : scores) {
    if (!score.value || std::isfinite(*score.value)) continue;
    score.reason = fmt::format("the score is {}", *score.value);
    score.value.reset();
  }
  return scores;
}

/// Judges the samples without a score once more.
void retry_failed(Reward& reward, const std::string& name, std::span<const data::Sample> samples,
                  std::vector<Score>& scores) {
  std::vector<size_t> failed;
  std::vector<data::Sample> again;
  for (size_t n = 0; n < scores.size(); ++n) {
    if (scores[n].value) continue;
    failed.push_back(n);
    again.push_back(samples[n]);
  }
  if (failed.empty()) return;
  std::vector<Score> second = checked_scores(reward, name, again);
  for (size_t i = 0; i < failed.size(); ++i) scores[failed[i]] = std::move(second[i]);
}

void stop_on_failure(const std::string& name, std::span<const data::Sample> samples,
                     const std::vector<Score>& scores) {
  for (size_t n = 0; n < scores.size(); ++n) {
    if (!scores[n].value) {
      throw RuntimeFailure("reward '{}' has no score for sample {}: {} (reward.on_error = stop)",
                           name, samples[n].id, scores[n].reason);
    }
  }
}

}  // namespace

std::unique_ptr<Reward> make_reward(const TermConfig& term) {
  switch (term.kind) {
    case RewardKind::geneval:
      return make_geneval_reward(term.measure, make_color_detector());
    case RewardKind::edit:
      return make_edit_reward(term.measure, make_color_detector());
    case RewardKind::answer:
      return make_answer_reward();
    case RewardKind::format:
      return make_format_reward();
    case RewardKind::saturation:
      return make_saturation_reward();
    case RewardKind::plugin:
      return make_plugin_reward(term);
  }
  throw RuntimeFailure("unknown reward kind {}", static_cast<int>(term.kind));
}

Rewarder::Rewarder(const RewardConfig& config) : config_(config) {
  std::set<std::string> names;
  for (TermConfig& term : config_.terms) {
    term.name = term_name(term);
    if (!names.insert(term.name).second) {
      throw BadInput(
          "reward.terms: the name '{}' is given twice; expected a name of its own for each term",
          term.name);
    }
    rewards_.push_back(make_reward(term));
  }
}

Rewarder::Rewarder(const RewardConfig& config, std::vector<std::unique_ptr<Reward>> rewards)
    : config_(config), rewards_(std::move(rewards)) {
  for (TermConfig& term : config_.terms) term.name = term_name(term);
}

ScoreTable Rewarder::score(std::span<const data::Sample> samples) {
  ScoreTable table;
  table.scores.resize(samples.size());
  for (size_t k = 0; k < rewards_.size(); ++k) {
    const TermConfig& term = config_.terms[k];
    table.terms.push_back(term.name);
    table.weights.push_back(term.weight);
    std::vector<Score> scores = checked_scores(*rewards_[k], term.name, samples);
    if (config_.on_error == OnError::retry) retry_failed(*rewards_[k], term.name, samples, scores);
    if (config_.on_error == OnError::stop) stop_on_failure(term.name, samples, scores);
    for (size_t n = 0; n < samples.size(); ++n) table.scores[n].push_back(std::move(scores[n]));
  }
  return table;
}

void Rewarder::check_prompts(std::span<const data::Prompt> prompts, const std::string& file) const {
  for (const data::Prompt& prompt : prompts) {
    for (size_t k = 0; k < rewards_.size(); ++k) {
      const std::string missing = rewards_[k]->missing_metadata(prompt.metadata_json);
      if (!missing.empty()) {
        throw BadInput("{}:{}: reward '{}' cannot judge this row: {}", file, prompt.line,
                       config_.terms[k].name, missing);
      }
    }
  }
}

}  // namespace unigrpo::reward
