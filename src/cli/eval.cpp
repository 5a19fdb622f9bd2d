#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "io/atomic_file.h"
#include "monitor/samples_file.h"
#include "recipe/checks.h"
#include "train/evaluator.h"

namespace unigrpo::cli {
namespace {

struct Options {
  ModelOptions model;
  std::string prompts, reward = "geneval", json, out;
  uint64_t seed = 0;
  int64_t num_samples = 1, max_prompts = 0;
  bool true_plan = false;
};

int run_eval(const Options& options) {
  const auto kind = enum_value<reward::RewardKind>(options.reward);
  if (!kind) throw BadInput("--reward: expected {}, got '{}'", enum_choices<reward::RewardKind>(), options.reward);
  std::vector<reward::TermConfig> rewards = train::default_eval_rewards();
  rewards.front().kind = *kind;
  if (const auto lacks = recipe::find_reward_conflict(rewards.front())) {
    throw BadInput("--reward: '{}' needs settings, which a recipe can give in [[eval.rewards]]: {}", options.reward,
                   *lacks);
  }
  const train::EvalOptions eval{.model = options.model.model,
                                .prompts = options.prompts,
                                .rewards = rewards,
                                .generation = generation_of(options.model),
                                .seed = options.seed,
                                .num_samples = options.num_samples,
                                .max_prompts = options.max_prompts,
                                .true_plan = options.true_plan,
                                .keep_samples = options.out.empty() ? 0 : -1};
  const auto model = load_model(options.model);
  const train::EvalResult result = train::evaluate(*model, eval);
  std::fputs(train::to_table(result).c_str(), stdout);
  if (!options.json.empty()) io::write_file_atomic(options.json, train::to_json(eval, result));
  if (!options.out.empty()) monitor::write_samples(options.out, result.samples);
  return 0;
}

}  // namespace

Run declare_eval(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  add_model_options(app, options->model);
  app.add_option("--prompts", options->prompts, "Prompt file (JSONL, GenEval's schema)")->required();
  app.add_option("--reward", options->reward, "What scores the images")->capture_default_str();
  app.add_option("--json", options->json, "Write the result here");
  app.add_option("--out", options->out, "Folder for all images and samples.jsonl");
  app.add_option("--seed", options->seed, "Of all noise (default 0)");
  app.add_option("--num-samples", options->num_samples, "Images a prompt")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{10000}));
  app.add_option("--max-prompts", options->max_prompts, "Prompts at most, spread over the file; 0 = all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1000000}));
  app.add_flag("--true-plan", options->true_plan, "Embedded world: give the right plan instead of the model's own");
  return [options] { return run_eval(*options); };
}

}  // namespace unigrpo::cli
