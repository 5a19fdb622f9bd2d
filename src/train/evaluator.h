#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "monitor/samples_file.h"
#include "policy/policy.h"
#include "recipe/config.h"
#include "reward/config.h"
#include "runtime/runtime.h"
#include "train/generation_config.h"

namespace unigrpo::train {

/// A reward of this kind as an evaluation asks it: of those that find objects, the strict score.
reward::TermConfig eval_reward(reward::RewardKind kind);
/// What judges the rows of a prompt file, by what its first one holds: metadata.changed: edit, metadata.answer: answer,
/// include: geneval, metadata.text: ocr. Throws BadInput `file:line` where it holds none of these.
std::vector<reward::TermConfig> default_eval_rewards(const std::string& prompts);
/// Those of a recipe's [eval], or the default for its prompts.
std::vector<reward::TermConfig> eval_rewards(const recipe::EvalConfig& config);

/// How a model is scored on a prompt file.
struct EvalOptions {
  std::string model;    // shown in the result
  std::string prompts;  // file
  /// The first one gives `overall` and `tags`.
  std::vector<reward::TermConfig> rewards = {eval_reward(reward::RewardKind::geneval)};
  GenerationConfig generation;
  uint64_t seed = 0;         // of all noise; the same for every run, whatever its own, so that scores compare
  int64_t num_samples = 1;   // images a prompt
  int64_t max_prompts = 0;   // 0 = all; else spread evenly over the file
  bool oracle_plan = false;  // embedded world: the first text segment is the right plan instead of the model's own
  int64_t keep_samples = 0;  // rows to return in EvalResult::samples (-1 = all)
};

struct TagScore {
  double strict = 0, soft = 0;  // means over the tag's prompts
  int64_t count = 0;            // prompts
};

/// The JSON of `eval --json`, as values. A sample that the reward could not judge counts as 0 and in `unscored`.
struct EvalResult {
  TagScore overall, overall_by_tag;
  std::map<std::string, TagScore> tags;
  int64_t unscored = 0;                   // by the first reward
  std::map<std::string, double> rewards;  // by name, mean over the samples that it scored; absent where it scored none
  bool complete = true;                   // false: a stop was asked for, and not all prompts were scored
  double seconds = 0;
  std::vector<monitor::SampleRow> samples;
};

/// The same model, options and seed give the same images: noise is a function of (seed, the row's own seed or its
/// index, sample index). Throws BadInput `file:line` for a prompt that the reward cannot judge.
EvalResult evaluate(policy::UnifiedPolicy& policy, const EvalOptions& options, const Runtime& runtime);

/// Throws BadInput `file:line` for a prompt of the file that a reward cannot judge.
void check_eval_prompts(const std::string& file, const std::vector<reward::TermConfig>& rewards);

/// The score that counts (overall, strict) in a file of to_json. Throws BadInput naming the file.
double score_in(const std::filesystem::path& file);

std::string to_json(const EvalOptions& options, const EvalResult& result);
/// Per-tag table for the terminal.
std::string to_table(const EvalResult& result);

}  // namespace unigrpo::train
