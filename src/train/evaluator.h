#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "monitor/samples_file.h"
#include "policy/policy.h"
#include "recipe/recipe.h"
#include "reward/config.h"
#include "reward/rewarder.h"
#include "runtime/runtime.h"
#include "train/generation_config.h"

namespace unigrpo::train {

/// A reward of this kind as an evaluation asks it: of those that find objects, the strict score.
reward::TermConfig eval_reward(reward::RewardKind kind);
/// What judges the rows of a prompt file, by what its first one holds: metadata.changed: edit, metadata.answer: answer,
/// include: geneval, metadata.text: ocr, metadata.av: each av_ kind, av_quality first. Throws BadInput `file:line`
/// where it holds none of these.
std::vector<reward::TermConfig> default_eval_rewards(const data::Prompt& first, const std::string& file);

/// How a model is scored on a prompt file.
struct EvalOptions {
  std::string model;    // shown in the result
  std::string prompts;  // file
  /// The first one gives `overall` and `tags`. None: default_eval_rewards of the file.
  std::vector<reward::TermConfig> rewards = {eval_reward(reward::RewardKind::geneval)};
  GenerationConfig generation;
  uint64_t seed = 0;         // of all noise; the same for every run, whatever its own, so that scores compare
  int64_t num_samples = 1;   // images a prompt
  int64_t max_prompts = 0;   // 0 = all; else spread evenly over the file
  bool oracle_plan = false;  // embedded world: the first text segment is the right plan instead of the model's own
  int64_t keep_samples = 0;  // rows to return in EvalResult::samples (-1 = all)
  double max_dropped = reward::RewardConfig{}.max_dropped;  // where a larger share has no score, there is no mean
};

/// A mean over prompts and its standard error, from two prompts on.
struct Mean {
  std::optional<double> value = {}, error = {};
};

/// Means over the prompts that have a score, of the means over a prompt's scored samples. Empty where nothing was
/// scored, or so little that the mean would be one of other samples than the next evaluation's.
struct TagScore {
  Mean score = {};              // of the number that counts, EvalResult::metric
  Mean strict = {}, soft = {};  // of a reward that finds objects; of others the same number
  int64_t count = 0;            // prompts
  int64_t unscored = 0;         // samples
};

/// What a reward made of an evaluation.
struct RewardScore {
  std::optional<double> mean;  // over the samples that it scored; empty as in TagScore
  int64_t unscored = 0;        // samples
  std::string reason;          // why the first of them has no score
};

/// The JSON of `eval --json`, as values. A score that is missing enters no mean, and is counted; where a prompt does
/// not ask for what a reward judges, none is missing.
struct EvalResult {
  reward::RewardKind reward = reward::RewardKind::geneval;  // the first one
  std::string metric = "strict";  // of rewards that find objects which of their numbers counts; of others "strict"
  TagScore overall, overall_by_tag;
  std::map<std::string, TagScore> tags;
  int64_t num_samples = 0;  // in all
  std::map<std::string, RewardScore> rewards;
  bool complete = true;  // false: a stop was asked for, and not all prompts were scored
  double seconds = 0;
  std::vector<monitor::SampleRow> samples;

  /// The number by which models are compared: the mean over prompts; with the official metric that over tags, as
  /// GenEval's own summary_scores.py has it (github.com/djghosh13/geneval).
  const Mean& score() const;
};

/// The scores of an evaluation without its samples. `table`: [N, K], by the first term, which is `first`, come
/// `overall` and `tags`; `tags`: [N], a prompt's `num_samples` samples stand together.
EvalResult summarize(const reward::ScoreTable& table, const reward::TermConfig& first,
                     std::span<const std::string> tags, int64_t num_samples, double max_dropped);

/// Scores models on one prompt file; the file is read, and the rewards are made, once. Throws BadInput `file:line` for
/// a prompt that a reward cannot judge.
class Evaluator {
 public:
  /// Of `options` the prompts and rewards.
  Evaluator(const EvalOptions& options, const Runtime& runtime);

  /// The same model, options and seed give the same images: noise is a function of (seed, the row's own seed or its
  /// index, sample index). `options`: with the constructor's prompts and rewards. Ranks share the prompts, and all of
  /// them have the result, the root its samples too.
  EvalResult evaluate(policy::UnifiedPolicy& policy, const EvalOptions& options);
  const std::vector<reward::TermConfig>& rewards() const { return rewards_; }

 private:
  Runtime runtime_;
  std::vector<data::Prompt> prompts_;
  std::vector<reward::TermConfig> rewards_;
  reward::Rewarder rewarder_;
};

/// One that a run makes around its steps.
struct Evaluation {
  std::string task = {};     // of the recipe, whose eval_prompts these are; empty: [eval]'s
  std::string prompts = {};  // file
  std::unique_ptr<Evaluator> evaluator = nullptr;

  /// "draw/" before the names of a task's scores, "task_draw_" before those of its files.
  std::string metric_prefix() const { return task.empty() ? "" : task + "/"; }
  std::string file_prefix() const { return task.empty() ? "" : "task_" + task + "_"; }
};

/// That of [eval], where the recipe has one, then those of its tasks, which are judged by what their rows hold.
std::vector<Evaluation> make_evaluations(const recipe::Recipe& recipe, const Runtime& runtime);

/// The same for one evaluation.
EvalResult evaluate(policy::UnifiedPolicy& policy, const EvalOptions& options, const Runtime& runtime);

/// "strict 0.512, soft 0.724", with another metric that one first, or why there is no score; behind it how many samples
/// of which reward have none.
std::string describe(const EvalResult& result);

/// What a file of to_json holds.
struct StoredScores {
  std::optional<double> score;           // the number by which models are compared; empty: none
  std::map<std::string, double> values;  // `strict`, `soft`, the metric and one a reward; those that are none left out
};
/// Throws BadInput naming the file.
StoredScores scores_in(const std::filesystem::path& file);

std::string to_json(const EvalOptions& options, const EvalResult& result);
/// Per-tag table for the terminal.
std::string to_table(const EvalResult& result);

}  // namespace unigrpo::train
