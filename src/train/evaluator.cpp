#include "train/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/fault.h"
#include "base/rng.h"
#include "data/prompt_file.h"
#include "data/worlds/shapes_world.h"
#include "io/json.h"
#include "reward/rewarder.h"
#include "rollout/engine.h"
#include "train/build.h"
#include "train/sample_row.h"

namespace unigrpo::train {
namespace {

constexpr int64_t kPromptsAtOnce = 96;  // bounds the memory of decoded images

std::vector<data::Prompt> choose_prompts(const EvalOptions& options) {
  auto prompts = data::read_prompt_file(options.prompts);
  return options.max_prompts == 0 ? prompts : data::spread_over(prompts, options.max_prompts);
}

double part(const reward::Score& score, const char* name) {
  const auto found = score.parts.find(name);
  return found != score.parts.end() ? found->second : score.value.value_or(0.0);
}

reward::Rewarder judge(const std::vector<reward::TermConfig>& rewards, const Runtime& runtime) {
  reward::RewardConfig config;
  config.terms = rewards;
  return build_rewarder(config, runtime);
}

std::string oracle_plan(const data::Prompt& prompt, uint64_t seed) {
  RandomStream stream({.seed = seed, .prompt = static_cast<uint64_t>(prompt.index), .purpose = Purpose::world_plan});
  return data::shapes::draw_example(data::shapes::world_line(prompt), {}, stream).oracle_plan;
}

nlohmann::ordered_json tag_json(const TagScore& score) {
  return {{"strict", score.strict}, {"soft", score.soft}, {"count", score.count}};
}

/// Sums and counts by reward, to their means.
class Means {
 public:
  void add(const reward::ScoreTable& table) {
    for (const auto& row : table.scores) {
      for (size_t k = 0; k < row.size(); ++k) {
        if (!row[k].value) continue;
        auto& [sum, count] = sums_[table.terms[k]];
        sum += *row[k].value;
        ++count;
      }
    }
  }
  std::map<std::string, double> means() const {
    std::map<std::string, double> means;
    for (const auto& [name, sum] : sums_) means[name] = sum.first / static_cast<double>(sum.second);
    return means;
  }

 private:
  std::map<std::string, std::pair<double, int64_t>> sums_;
};

}  // namespace

reward::TermConfig eval_reward(reward::RewardKind kind) {
  reward::TermConfig term;
  term.kind = kind;
  term.objects.metric = reward::GenevalMetric::strict;
  return term;
}

std::vector<reward::TermConfig> default_eval_rewards(const std::string& prompts) {
  using enum reward::RewardKind;
  const data::Prompt first = data::read_prompt_file(prompts).front();
  const nlohmann::json row = io::parse_json(first.metadata_json, prompts);
  const nlohmann::json metadata = row.value("metadata", nlohmann::json::object());
  const auto holds = [&](const char* key) { return metadata.is_object() && metadata.contains(key); };
  if (holds("changed")) return {eval_reward(edit)};
  if (holds("answer")) return {eval_reward(answer)};
  if (row.contains("include")) return {eval_reward(geneval)};
  if (holds("text")) return {eval_reward(ocr)};
  throw BadInput(
      "{}:{}: no reward goes by itself with this row: it has no 'include', 'metadata.changed', 'metadata.answer' or "
      "'metadata.text'; expected one by name (--reward, --recipe, or [[eval.rewards]] in a recipe)",
      prompts, first.line);
}

std::vector<reward::TermConfig> eval_rewards(const recipe::EvalConfig& config) {
  return config.rewards.empty() ? default_eval_rewards(config.prompts) : config.rewards;
}

EvalResult evaluate(policy::UnifiedPolicy& policy, const EvalOptions& options, const Runtime& runtime) {
  const auto start = std::chrono::steady_clock::now();
  const auto prompts = choose_prompts(options);
  reward::Rewarder rewarder = judge(options.rewards, runtime);
  Means means;
  rewarder.check_prompts(prompts, options.prompts);
  Runtime own = runtime;
  own.seed = options.seed;
  rollout::RolloutEngine engine(policy, to_rollout_config(options.generation), own, options.generation.system_prompt);
  for (const data::Prompt& prompt : prompts) engine.check_length(prompt);
  EvalResult result;
  for (size_t first = 0; first < prompts.size(); first += kPromptsAtOnce) {
    fault::point("eval.batch");
    if (runtime.stop.requested()) {
      result.complete = false;
      break;
    }
    const std::span<const data::Prompt> batch =
        std::span(prompts).subspan(first, std::min<size_t>(kPromptsAtOnce, prompts.size() - first));
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
    std::vector<data::Sample> samples;
    std::vector<int64_t> prompt_of;
    for (auto& trajectory : engine.rollout(request)) {
      prompt_of.push_back(trajectory.prompt_index);
      samples.push_back(std::move(trajectory.sample));
    }
    const reward::ScoreTable table = rewarder.score(samples);
    means.add(table);
    for (size_t i = 0; i < samples.size(); ++i) {
      const reward::Score& score = table.scores[i].front();
      const double share = 1.0 / static_cast<double>(options.num_samples);
      if (!score.value) ++result.unscored;
      const data::Prompt& prompt = batch[prompt_of[i]];
      TagScore& tag = result.tags[prompt.tag];
      tag.strict += share * (score.value ? part(score, "strict") : 0.0);
      tag.soft += share * (score.value ? part(score, "soft") : 0.0);
      if (prompt_of[i] != (i == 0 ? -1 : prompt_of[i - 1])) ++tag.count;
      if (options.keep_samples < 0 || static_cast<int64_t>(result.samples.size()) < options.keep_samples) {
        result.samples.push_back(sample_row(std::move(samples[i]), table.terms, table.scores[i]));
        result.samples.back().reward = score.value;  // the first one counts
      }
    }
  }
  if (runtime.stop.requested()) result.complete = false;  // judges may have been cut short
  for (auto& [name, tag] : result.tags) {
    result.overall.strict += tag.strict;
    result.overall.soft += tag.soft;
    result.overall.count += tag.count;
    tag.strict /= static_cast<double>(tag.count);
    tag.soft /= static_cast<double>(tag.count);
    result.overall_by_tag.strict += tag.strict;
    result.overall_by_tag.soft += tag.soft;
    ++result.overall_by_tag.count;
  }
  result.overall.strict /= static_cast<double>(result.overall.count);
  result.overall.soft /= static_cast<double>(result.overall.count);
  result.overall_by_tag.strict /= static_cast<double>(result.overall_by_tag.count);
  result.overall_by_tag.soft /= static_cast<double>(result.overall_by_tag.count);
  result.rewards = means.means();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void check_eval_prompts(const std::string& file, const std::vector<reward::TermConfig>& rewards) {
  judge(rewards, {}).check_prompts(data::read_prompt_file(file), file);
}

double score_in(const std::filesystem::path& file) {
  try {
    return io::read_json_file(file).at("overall").at("strict").get<double>();
  } catch (const nlohmann::json::exception& error) {
    throw BadInput("{}: not the result of an evaluation: {}", file.string(), error.what());
  }
}

std::string to_json(const EvalOptions& options, const EvalResult& result) {
  nlohmann::ordered_json object;
  object["model"] = options.model;
  object["reward"] = std::string(enum_name(options.rewards.front().kind));
  object["prompts"] = options.prompts;
  object["num_prompts"] = result.overall.count;
  object["num_samples"] = options.num_samples;
  object["seed"] = options.seed;
  object["num_steps"] = options.generation.num_steps;
  object["cfg_scale"] = options.generation.guidance.text_scale;
  object["temperature"] = options.generation.greedy ? 0.0 : options.generation.temperature;
  object["oracle_plan"] = options.oracle_plan;
  object["overall"] = {{"strict", result.overall.strict}, {"soft", result.overall.soft}};
  object["overall_by_tag"] = {{"strict", result.overall_by_tag.strict}, {"soft", result.overall_by_tag.soft}};
  object["tags"] = nlohmann::ordered_json::object();
  for (const auto& [name, tag] : result.tags) object["tags"][name] = tag_json(tag);
  object["unscored"] = result.unscored;
  object["rewards"] = nlohmann::ordered_json::object();
  for (const auto& [name, mean] : result.rewards) object["rewards"][name] = mean;
  object["seconds"] = result.seconds;
  return object.dump(2) + "\n";
}

std::string to_table(const EvalResult& result) {
  std::string text = fmt::format("{:<16} {:>8} {:>8} {:>8}\n", "tag", "strict", "soft", "prompts");
  for (const auto& [name, tag] : result.tags) {
    text += fmt::format("{:<16} {:>8.3f} {:>8.3f} {:>8}\n", name.empty() ? "-" : name, tag.strict, tag.soft, tag.count);
  }
  text += fmt::format("{:<16} {:>8.3f} {:>8.3f} {:>8}\n", "mean of prompts", result.overall.strict, result.overall.soft,
                      result.overall.count);
  text += fmt::format("{:<16} {:>8.3f} {:>8.3f}\n", "mean of tags", result.overall_by_tag.strict,
                      result.overall_by_tag.soft);
  return text;
}

}  // namespace unigrpo::train
