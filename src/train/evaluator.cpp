#include "train/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/rng.h"
#include "base/statistics.h"
#include "data/prompt_file.h"
#include "data/worlds/shapes_world.h"
#include "io/json.h"
#include "policy/sharded.h"
#include "reward/rewarder.h"
#include "rollout/engine.h"
#include "runtime/ranks.h"
#include "train/build.h"
#include "train/draw.h"
#include "train/sample_row.h"

namespace unigrpo::train {
namespace {

constexpr int64_t kPromptsAtOnce = 96;  // bounds the memory of decoded images

std::vector<data::Prompt> choose_prompts(const EvalOptions& options) {
  auto prompts = data::read_prompt_file(options.prompts);
  return options.max_prompts == 0 ? prompts : data::spread_over(prompts, options.max_prompts);
}

/// Whether the number that counts is one of several, which `strict` and `soft` then stand beside.
bool has_metric(const reward::TermConfig& term) {
  const bool finds_objects = term.kind == reward::RewardKind::geneval || term.kind == reward::RewardKind::edit;
  return finds_objects && term.dimension.empty();
}

/// The name of the number that counts.
std::string metric_of(const reward::TermConfig& term) {
  return has_metric(term) ? std::string(enum_name(term.objects.metric)) : "strict";
}

bool is_official(const std::string& metric) { return metric == enum_name(reward::GenevalMetric::official); }

bool has_own_column(const std::string& metric) { return metric != "strict" && metric != "soft"; }

reward::Rewarder judge(const std::vector<reward::TermConfig>& rewards, const Runtime& runtime) {
  reward::RewardConfig config;
  config.terms = rewards;
  return build_rewarder(config, runtime);
}

std::string oracle_plan(const data::Prompt& prompt, uint64_t seed) {
  RandomStream stream({.seed = seed, .prompt = static_cast<uint64_t>(prompt.index), .purpose = Purpose::world_plan});
  return data::shapes::draw_example(data::shapes::world_line(prompt), {}, stream).oracle_plan;
}

/// null: no score.
nlohmann::ordered_json number_json(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

/// The means of a tag by name, in the order in which they are shown.
std::vector<std::pair<std::string, const Mean*>> named(const TagScore& score, const std::string& metric) {
  std::vector<std::pair<std::string, const Mean*>> means = {{"strict", &score.strict}, {"soft", &score.soft}};
  if (has_own_column(metric)) means.insert(means.begin(), {metric, &score.score});
  return means;
}

nlohmann::ordered_json score_json(const TagScore& score, const std::string& metric) {
  nlohmann::ordered_json object;
  for (const auto& [name, mean] : named(score, metric)) object[name] = number_json(mean->value);
  for (const auto& [name, mean] : named(score, metric)) {
    if (mean->error) object[name + "_error"] = *mean->error;
  }
  return object;
}

std::string shown(const std::optional<double>& value) { return value ? fmt::format("{:.3f}", *value) : "-"; }

/// Whether so few samples lack a score that a mean over the others stands for all of them.
bool counts(int64_t unscored, int64_t samples, double max_dropped) {
  return unscored < samples && static_cast<double>(unscored) <= max_dropped * static_cast<double>(samples);
}

std::optional<double> mean_of(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// Of the mean, from the spread between the values: std / sqrt(n), the std with n - 1.
std::optional<double> standard_error(const std::vector<double>& values) {
  if (values.size() < 2) return std::nullopt;
  return spread_of(values, /*ddof=*/1).std / std::sqrt(static_cast<double>(values.size()));
}

/// The prompts of a tag, or all.
struct PromptScores {
  std::vector<double> score, strict, soft;  // of the prompts that have one, each the mean over its scored samples
  int64_t prompts = 0, samples = 0, unscored = 0;

  void add(const PromptScores& other) {
    score.insert(score.end(), other.score.begin(), other.score.end());
    strict.insert(strict.end(), other.strict.begin(), other.strict.end());
    soft.insert(soft.end(), other.soft.begin(), other.soft.end());
    prompts += other.prompts;
    samples += other.samples;
    unscored += other.unscored;
  }
  TagScore means(double max_dropped) const {
    if (!counts(unscored, samples, max_dropped)) return {.count = prompts, .unscored = unscored};
    const auto mean = [](const std::vector<double>& values) { return Mean{mean_of(values), standard_error(values)}; };
    return {.score = mean(score), .strict = mean(strict), .soft = mean(soft), .count = prompts, .unscored = unscored};
  }
};

/// The mean over tags, whose errors are independent; an error only where each tag has one. None where a tag has none:
/// it would be one of other tags than the next evaluation's.
TagScore mean_over_tags(const std::map<std::string, TagScore>& tags) {
  TagScore mean{.count = static_cast<int64_t>(tags.size())};
  for (Mean TagScore::*which : {&TagScore::score, &TagScore::strict, &TagScore::soft}) {
    std::vector<double> values;
    double squares = 0;
    bool has_errors = true;
    for (const auto& [name, tag] : tags) {
      const Mean& one = tag.*which;
      if (one.value) values.push_back(*one.value);
      has_errors = has_errors && one.error;
      if (one.error) squares += *one.error * *one.error;
    }
    if (values.size() < tags.size()) continue;
    (mean.*which).value = mean_of(values);
    if (has_errors && !values.empty()) (mean.*which).error = std::sqrt(squares) / static_cast<double>(values.size());
  }
  return mean;
}

/// By the first reward.
std::map<std::string, PromptScores> scores_by_tag(const reward::ScoreTable& table, bool has_parts,
                                                  std::span<const std::string> tags, size_t group_size) {
  const auto part = [&](const reward::Score& score, const char* name) {
    const auto found = score.parts.find(name);
    return has_parts && found != score.parts.end() ? found->second : *score.value;
  };
  std::map<std::string, PromptScores> scores;
  for (size_t first = 0; first < tags.size(); first += group_size) {
    const size_t end = std::min(first + group_size, tags.size());  // a stop may have cut the last group
    std::vector<double> values, strict, soft;
    int64_t asked = 0;
    for (size_t i = first; i < end; ++i) {
      const reward::Score& score = table.scores[i].front();
      asked += score.asked ? 1 : 0;
      if (!score.value) continue;
      values.push_back(*score.value);
      strict.push_back(part(score, "strict"));
      soft.push_back(part(score, "soft"));
    }
    if (asked == 0) continue;  // a prompt without what this reward judges
    PromptScores& tag = scores[tags[first]];
    ++tag.prompts;
    tag.samples += asked;
    tag.unscored += asked - static_cast<int64_t>(values.size());
    if (values.empty()) continue;
    tag.score.push_back(*mean_of(values));
    tag.strict.push_back(*mean_of(strict));
    tag.soft.push_back(*mean_of(soft));
  }
  return scores;
}

std::map<std::string, RewardScore> means_by_reward(const reward::ScoreTable& table, double max_dropped) {
  std::map<std::string, RewardScore> rewards;
  for (size_t k = 0; k < table.terms.size(); ++k) {
    RewardScore& score = rewards[table.terms[k]];
    std::vector<double> values;
    int64_t asked = 0;
    for (const auto& row : table.scores) {
      if (!row[k].asked) continue;
      ++asked;
      if (row[k].value) {
        values.push_back(*row[k].value);
      } else if (score.unscored++ == 0) {
        score.reason = row[k].reason;
      }
    }
    if (counts(score.unscored, asked, max_dropped)) score.mean = mean_of(values);
  }
  return rewards;
}

}  // namespace

reward::TermConfig eval_reward(reward::RewardKind kind) {
  reward::TermConfig term;
  term.kind = kind;
  term.objects.metric = reward::GenevalMetric::strict;
  return term;
}

std::vector<reward::TermConfig> default_eval_rewards(const data::Prompt& first, const std::string& file) {
  using enum reward::RewardKind;
  const nlohmann::json row = io::parse_json(first.metadata_json, file);
  const nlohmann::json metadata = row.value("metadata", nlohmann::json::object());
  const auto holds = [&](const char* key) { return metadata.is_object() && metadata.contains(key); };
  if (holds("changed")) return {eval_reward(edit)};
  if (holds("answer")) return {eval_reward(answer)};
  if (row.contains("include")) return {eval_reward(geneval)};
  if (holds("text")) return {eval_reward(ocr)};
  if (holds("av")) {
    return {eval_reward(av_quality), eval_reward(av_sync),  eval_reward(av_lip),  eval_reward(av_pitch),
            eval_reward(av_camera),  eval_reward(av_order), eval_reward(av_side), eval_reward(av_shape)};
  }
  throw BadInput(
      "{}:{}: no reward goes by itself with this row: it has no 'include', 'metadata.changed', 'metadata.answer', "
      "'metadata.text' or 'metadata.av'; expected one by name (--reward, --recipe, or [[eval.rewards]] in a recipe)",
      file, first.line);
}

const Mean& EvalResult::score() const { return (is_official(metric) ? overall_by_tag : overall).score; }

EvalResult summarize(const reward::ScoreTable& table, const reward::TermConfig& first,
                     std::span<const std::string> tags, int64_t num_samples, double max_dropped) {
  EvalResult result;
  result.reward = first.kind;
  result.metric = metric_of(first);
  PromptScores all;
  for (const auto& [name, scores] : scores_by_tag(table, has_metric(first), tags, static_cast<size_t>(num_samples))) {
    result.tags[name] = scores.means(max_dropped);
    all.add(scores);
  }
  result.overall = all.means(max_dropped);
  result.overall_by_tag = {.count = static_cast<int64_t>(result.tags.size())};
  if (result.overall.score.value) result.overall_by_tag = mean_over_tags(result.tags);
  result.num_samples = static_cast<int64_t>(tags.size());
  result.rewards = means_by_reward(table, max_dropped);
  return result;
}

Evaluator::Evaluator(const EvalOptions& options, const Runtime& runtime)
    : runtime_(runtime),
      prompts_(choose_prompts(options)),
      rewards_(options.rewards.empty() ? default_eval_rewards(prompts_.front(), options.prompts) : options.rewards),
      rewarder_(judge(rewards_, runtime)) {
  rewarder_.check_prompts(prompts_, options.prompts);
}

EvalResult Evaluator::evaluate(policy::UnifiedPolicy& policy, const EvalOptions& options) {
  const Stopwatch watch;
  const policy::Gathered weights(policy, policy::Gathered::for_rollout(policy));
  Runtime own = runtime_;
  own.seed = options.seed;
  rollout::RolloutEngine engine(policy, to_rollout_config(options.generation), own, options.generation.system_prompt);
  for (const data::Prompt& prompt : prompts_) engine.check_length(prompt);
  reward::ScoreTable scores;
  std::vector<std::string> tags;  // of the samples
  std::vector<monitor::SampleRow> kept;
  bool complete = true;
  for (size_t first = 0; first < prompts_.size(); first += kPromptsAtOnce) {
    fault::point("eval.batch");
    complete = !stop_asked(runtime_);
    if (!complete) break;
    const std::span<const data::Prompt> batch =
        std::span(prompts_).subspan(first, std::min<size_t>(kPromptsAtOnce, prompts_.size() - first));
    rollout::RolloutRequest request{.prompts = batch,
                                    .keys = {},
                                    .group_size = options.num_samples,
                                    .first_sample = 0,
                                    .step = 0,  // training's steps are keyed from 1
                                    .stochastic = false,
                                    .guidance = options.generation.guidance,
                                    .teacher_forced_text = {}};
    for (const data::Prompt& prompt : batch) {
      request.keys.push_back(static_cast<uint64_t>(prompt.seed.value_or(prompt.index)));
      if (options.oracle_plan) request.teacher_forced_text.push_back(oracle_plan(prompt, options.seed));
    }
    auto drawn = draw(engine, rewarder_, runtime_, {.rollout = std::move(request), .judge_at_once = false});
    complete = drawn.has_value();  // or prompts are missing, or judges may have been cut short
    if (!complete) break;
    reward::ScoreTable& table = drawn->scores;
    std::vector<size_t> rows;  // to keep
    for (size_t i = 0; i < drawn->trajectories.size(); ++i) {
      if (options.keep_samples < 0 || static_cast<int64_t>(tags.size()) < options.keep_samples) rows.push_back(i);
      tags.push_back(batch[drawn->trajectories[i].prompt_index].tag);
    }
    std::vector<data::Sample> samples = whole_samples(runtime_, drawn->trajectories, rows);
    for (size_t k = 0; k < samples.size(); ++k) {
      const std::vector<reward::Score>& row = table.scores[rows[k]];
      kept.push_back(sample_row(std::move(samples[k]), table.terms, row));
      kept.back().reward = row.front().value;  // the first one counts
    }
    scores.terms = table.terms;
    std::ranges::move(table.scores, std::back_inserter(scores.scores));
  }
  EvalResult result = summarize(scores, rewards_.front(), tags, options.num_samples, options.max_dropped);
  result.complete = complete;
  result.samples = std::move(kept);
  result.seconds = watch.seconds();
  return result;
}

std::vector<Evaluation> make_evaluations(const recipe::Recipe& recipe, const Runtime& runtime) {
  std::vector<Evaluation> all;
  const auto add = [&](const std::string& task, const std::string& prompts,
                       const std::vector<reward::TermConfig>& rewards) {
    if (prompts.empty()) return;
    EvalOptions options;
    options.prompts = prompts;
    options.max_prompts = recipe.eval.max_prompts;
    options.rewards = rewards;
    all.push_back({task, prompts, std::make_unique<Evaluator>(options, runtime)});
  };
  add("", recipe.eval.prompts, recipe.eval.rewards);
  for (const recipe::TaskConfig& task : recipe.tasks) add(task.name, task.eval_prompts, {});
  return all;
}

EvalResult evaluate(policy::UnifiedPolicy& policy, const EvalOptions& options, const Runtime& runtime) {
  return Evaluator(options, runtime).evaluate(policy, options);
}

std::string describe(const EvalResult& result) {
  std::string text;
  if (const Mean& score = result.score(); !score.value) {
    text = "no score";
  } else {
    if (has_own_column(result.metric)) text = fmt::format("{} {:.3f}, ", result.metric, *score.value);
    text += fmt::format("strict {:.3f}, soft {:.3f}", *result.overall.strict.value, *result.overall.soft.value);
  }
  for (const auto& [name, score] : result.rewards) {
    if (score.unscored == 0) continue;
    text += fmt::format("; {} of {} samples have no score by '{}' (the first: {})", score.unscored, result.num_samples,
                        name, score.reason);
  }
  return text;
}

StoredScores scores_in(const std::filesystem::path& file) {
  const nlohmann::json object = io::read_json_file(file);
  StoredScores scores;
  const auto add = [&](const std::string& name, const nlohmann::json& value) {
    if (!value.is_null()) scores.values[name] = value.get<double>();
  };
  try {
    for (const char* name : {"strict", "soft"}) add(name, object.at("overall").at(name));
    const std::string metric = object.value("metric", "strict");  // older files do not say
    const nlohmann::json& score = object.contains("score") ? object["score"] : object["overall"].at(metric);
    add(metric, score);
    if (!score.is_null()) scores.score = score.get<double>();
    for (const auto& [name, value] : object.at("rewards").items()) add(name, value);
  } catch (const nlohmann::json::exception& error) {
    throw BadInput("{}: not the result of an evaluation: {}", file.string(), error.what());
  }
  return scores;
}

std::string to_json(const EvalOptions& options, const EvalResult& result) {
  nlohmann::ordered_json object;
  object["model"] = options.model;
  object["reward"] = std::string(enum_name(result.reward));
  object["metric"] = result.metric;
  object["prompts"] = options.prompts;
  object["num_prompts"] = result.overall.count;
  object["num_samples"] = options.num_samples;
  object["seed"] = options.seed;
  object["num_steps"] = options.generation.num_steps;
  object["cfg_scale"] = options.generation.guidance.text_scale;
  object["temperature"] = options.generation.greedy ? 0.0 : options.generation.temperature;
  object["oracle_plan"] = options.oracle_plan;
  object["score"] = number_json(result.score().value);
  object["overall"] = score_json(result.overall, result.metric);
  object["overall_by_tag"] = score_json(result.overall_by_tag, result.metric);
  object["tags"] = nlohmann::ordered_json::object();
  for (const auto& [name, tag] : result.tags) {
    object["tags"][name] = score_json(tag, result.metric);
    object["tags"][name]["count"] = tag.count;
    if (tag.unscored > 0) object["tags"][name]["unscored"] = tag.unscored;
  }
  object["unscored"] = result.overall.unscored;
  object["rewards"] = nlohmann::ordered_json::object();
  object["missing"] = nlohmann::ordered_json::object();
  for (const auto& [name, score] : result.rewards) {
    object["rewards"][name] = number_json(score.mean);
    if (score.unscored > 0) object["missing"][name] = {{"samples", score.unscored}, {"reason", score.reason}};
  }
  object["seconds"] = result.seconds;
  return object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";  // a reason may be anything
}

std::string to_table(const EvalResult& result) {
  std::string text;
  const auto line = [&](const std::string& name, const auto& cells) {
    text += fmt::format("{:<16}", name);
    for (const std::string& cell : cells) text += fmt::format(" {:>8}", cell);
    text += "\n";
  };
  const auto cells = [&](const TagScore& score) {
    std::vector<std::string> values;
    for (const auto& [name, mean] : named(score, result.metric)) values.push_back(shown(mean->value));
    if (&score != &result.overall_by_tag) values.push_back(std::to_string(score.count));
    return values;
  };
  std::vector<std::string> titles;
  for (const auto& [name, mean] : named(result.overall, result.metric)) titles.push_back(name);
  titles.emplace_back("prompts");
  line("tag", titles);
  for (const auto& [name, tag] : result.tags) line(name.empty() ? "-" : name, cells(tag));
  line("mean of prompts", cells(result.overall));
  line("mean of tags", cells(result.overall_by_tag));
  if (is_official(result.metric)) text += "the official score is the mean of tags\n";
  if (result.overall.unscored > 0 || !result.score().value) text += describe(result) + "\n";
  return text;
}

}  // namespace unigrpo::train
