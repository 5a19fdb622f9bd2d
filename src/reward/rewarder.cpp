#include "reward/rewarder.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/left_behind.h"
#include "base/log.h"
#include "base/text.h"
#include "base/utf8.h"
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
  reward.streams = defaults.streams;
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

bool lacks_score(std::span<const TermConfig> terms, const Score& score) {
  return score.asked &&
         std::ranges::any_of(terms, [&](const TermConfig& term) { return !term_score(term, score).value; });
}

/// A second try's score; what it lacks stays as the first one had it.
Score merged(Score first, Score second) {
  if (!second.value && first.value) {
    second.value = first.value;
    second.reason = first.reason;
  }
  for (const auto& [name, value] : first.parts) {
    if (second.parts.emplace(name, value).second) second.missing.erase(name);
  }
  return second;
}

/// Judges the samples once more in which a term has no score; those of a group together with all of it where the reward
/// compares.
void retry_failed(Reward& reward, std::span<const TermConfig> terms, std::span<const data::Sample> samples,
                  std::vector<Score>& scores) {
  std::set<int64_t> groups;
  for (size_t n = 0; n < scores.size(); ++n) {
    if (lacks_score(terms, scores[n])) groups.insert(samples[n].group);
  }
  std::vector<size_t> places;
  std::vector<data::Sample> again;
  for (size_t n = 0; n < scores.size(); ++n) {
    if (reward.wants_groups() ? !groups.contains(samples[n].group) : !lacks_score(terms, scores[n])) continue;
    places.push_back(n);
    again.push_back(samples[n]);
  }
  if (again.empty()) return;
  std::vector<Score> second = checked_scores(reward, terms.front().name, again);
  for (size_t i = 0; i < places.size(); ++i) {
    Score& score = scores[places[i]];
    score = merged(std::move(score), std::move(second[i]));
  }
}

/// A line in the log for each score that a term has not.
void log_failures(std::span<const TermConfig> terms, std::span<const data::Sample> samples,
                  std::span<const Score> scores) {
  for (const TermConfig& term : terms) {
    for (size_t n = 0; n < scores.size(); ++n) {
      const Score score = term_score(term, scores[n]);
      if (score.value) continue;
      log::warn(fmt::format("reward '{}': no score for sample {} (prompt {}): {}", term.name,
                            valid_utf8(samples[n].id, 1000), in_quotes(samples[n].prompt), score.reason));
    }
  }
}

}  // namespace

/// One reward and the thread that calls it.
class Rewarder::Judge {
 public:
  Judge(std::unique_ptr<Reward> reward, OnError on_error, StopToken stop)
      : stop_(stop),
        state_(std::make_shared<State>(std::move(reward), on_error, stop)),
        thread_(stop, [state = state_] { state->work(); }) {}

  ~Judge() {
    {
      const std::lock_guard lock(state_->mutex);
      state_->closing = true;
      state_->waiting.clear();
    }
    state_->changed.notify_all();
  }

  const Reward& reward() const { return *state_->reward; }

  /// A term that uses the reward. Before anything is submitted.
  void add_term(const TermConfig& term) { state_->terms.push_back(term); }

  void submit(size_t first, std::shared_ptr<const std::vector<data::Sample>> samples) {
    {
      const std::lock_guard lock(state_->mutex);
      state_->waiting.push_back({first, std::move(samples)});
    }
    state_->changed.notify_all();
  }

  /// By row. Waits for all that was submitted, or until a stop is asked for; throws what the reward threw.
  std::map<size_t, Score> collect() {
    constexpr std::chrono::milliseconds kPoll(20);
    std::unique_lock lock(state_->mutex);
    const auto idle = [&] { return state_->waiting.empty() && !state_->busy; };
    while (!state_->changed.wait_for(lock, kPoll, idle)) {
      if (stop_.requested()) break;
    }
    if (idle()) state_->reward->new_step();
    const std::exception_ptr failure = std::exchange(state_->failure, nullptr);
    std::map<size_t, Score> scores = std::exchange(state_->scores, {});
    if (failure) std::rethrow_exception(failure);
    return scores;
  }

 private:
  struct Job {
    size_t first;
    std::shared_ptr<const std::vector<data::Sample>> samples;
  };

  /// What the thread uses; it may outlive the judge.
  struct State {
    State(std::unique_ptr<Reward> judge, OnError on_failure, StopToken when)
        : reward(std::move(judge)), on_error(on_failure), stop(when) {}

    void work() {
      std::unique_lock lock(mutex);
      while (true) {
        changed.wait(lock, [&] { return closing || !waiting.empty(); });
        if (closing) return;
        const Job job = std::move(waiting.front());
        waiting.pop_front();
        busy = true;
        lock.unlock();
        std::vector<Score> judged;
        std::exception_ptr thrown;
        try {
          judged = judge(*job.samples);
        } catch (...) {
          thrown = std::current_exception();
        }
        lock.lock();
        busy = false;
        if (thrown && !failure) failure = thrown;
        for (size_t i = 0; i < judged.size(); ++i) scores[job.first + i] = std::move(judged[i]);
        changed.notify_all();
      }
    }

    std::vector<Score> judge(std::span<const data::Sample> samples) {
      std::vector<Score> judged = checked_scores(*reward, terms.front().name, samples);
      tell(samples, judged);
      if (on_error == OnError::retry && !stop.requested()) {
        retry_failed(*reward, terms, samples, judged);
        tell(samples, judged);
      }
      return judged;
    }

    void tell(std::span<const data::Sample> samples, std::span<const Score> judged) const {
      if (terms.front().kind == RewardKind::plugin && !stop.requested()) log_failures(terms, samples, judged);
    }

    const std::unique_ptr<Reward> reward;
    const OnError on_error;
    const StopToken stop;
    std::vector<TermConfig> terms;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Job> waiting;
    bool busy = false, closing = false;
    std::map<size_t, Score> scores;
    std::exception_ptr failure;
  };

  const StopToken stop_;
  const std::shared_ptr<State> state_;
  LeavableThread thread_;  // last: its end is waited for first
};

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
    if (other == k) judges_.push_back(std::make_unique<Judge>(make(term), config_.on_error, stop_));
    judge_of_.push_back(other == k ? judges_.size() - 1 : judge_of_[other]);
    Judge& judge = *judges_[judge_of_[k]];
    const std::vector<std::string> known = judge.reward().dimensions();
    if (!term.dimension.empty() && !known.empty() && std::ranges::find(known, term.dimension) == known.end()) {
      throw BadInput("rewards: the reward of '{}' has no dimension '{}'; expected one of {}", term.name, term.dimension,
                     join(known, ", "));
    }
    if (known.size() == 1) term.dimension.clear();  // the only one is the main number
    judge.add_term(term);
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
  const std::string not_judged =
      stop_.requested() ? fmt::format("not judged: {}", stop_.signal()) : std::string("not judged");
  std::string missing;  // under on_error = stop: the first one
  for (size_t k = 0; k < config_.terms.size(); ++k) {
    const TermConfig& term = config_.terms[k];
    table.terms.push_back(term.name);
    table.weights.push_back(term.weight);
    table.modality.push_back(term.modality);
    table.streams.push_back(term.streams);
    const auto& scores = judged[judge_of_[k]];
    for (size_t n = 0; n < table.scores.size(); ++n) {
      const auto found = scores.find(n);
      table.scores[n].push_back(found == scores.end() ? Score{.value = std::nullopt, .reason = not_judged, .parts = {}}
                                                      : term_score(term, found->second));
      if (!missing.empty() || table.scores[n].back().value || !table.scores[n].back().asked) continue;
      missing = fmt::format("reward '{}' has no score for sample {}: {} (reward.on_error = stop)", term.name, ids[n],
                            table.scores[n].back().reason);
    }
  }
  if (config_.on_error == OnError::stop && !missing.empty() && !stop_.requested()) {
    throw MissingScores(missing, std::move(table));
  }
  return table;
}

ScoreTable Rewarder::score(std::span<const data::Sample> samples) {
  submit(0, {samples.begin(), samples.end()});
  return collect();
}

std::vector<std::string> Rewarder::dimensions(size_t term) const {
  return judges_[judge_of_[term]]->reward().dimensions();
}

bool Rewarder::wants_groups() const {
  return std::ranges::any_of(judges_, [](const auto& judge) { return judge->reward().wants_groups(); });
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
