#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/build_folder.h"
#include "cli/model_commands.h"
#include "cli/model_options.h"
#include "cli/ranks.h"
#include "io/atomic_file.h"
#include "monitor/samples_file.h"
#include "recipe/parse.h"
#include "reward/rules.h"
#include "runtime/ranks.h"
#include "runtime/runtime.h"
#include "train/evaluator.h"

namespace unigrpo::cli {

namespace {

/// None: by what the rows hold.
std::vector<reward::TermConfig> rewards_of(const EvalOptions& options, const recipe::Recipe& recipe) {
  if (!options.recipe.empty()) {
    const auto& terms = recipe.eval.rewards.empty() ? recipe.reward.terms : recipe.eval.rewards;
    if (terms.empty()) throw BadInput("{}: neither [[eval.rewards]] nor [[rewards]]", options.recipe);
    return terms;
  }
  if (options.reward.empty()) return {};
  const auto kind = enum_value<reward::RewardKind>(options.reward);
  if (!kind) throw BadInput("--reward: expected {}, got '{}'", enum_choices<reward::RewardKind>(), options.reward);
  const reward::TermConfig term = train::eval_reward(*kind);
  if (const auto lacks = reward::validate(term, "reward")) {
    throw BadInput("--reward: '{}' needs settings, which --recipe can give: {}", options.reward,
                   lacks->keys.front() + ": " + lacks->message);
  }
  return {term};
}

/// What an evaluation is made of.
struct Scored {
  train::EvalOptions options;
  std::unique_ptr<train::Evaluator> evaluator;
  std::unique_ptr<policy::UnifiedPolicy> model;
};

Scored read_inputs(const EvalOptions& options, const Runtime& runtime) {
  recipe::Recipe recipe;
  if (!options.recipe.empty()) recipe = recipe::parse(options.recipe, options.overrides, recipe::Command::check);
  const std::string prompts = options.prompts.empty() ? recipe.eval.prompts : options.prompts;
  if (prompts.empty()) throw BadInput("--prompts is required; see `unigrpo eval --help`");
  const train::GenerationConfig generation = generation_of(options.model);
  const std::vector<reward::TermConfig> rewards = rewards_of(options, recipe);
  const train::EvalOptions eval{.model = options.model.model,
                                .prompts = prompts,
                                .rewards = rewards,
                                .generation = generation,
                                .seed = options.seed,
                                .num_samples = options.num_samples,
                                .max_prompts = options.max_prompts,
                                .oracle_plan = options.oracle_plan,
                                .keep_samples = options.out.empty() ? 0 : -1,
                                .max_dropped = recipe.reward.max_dropped};
  if (!options.out.empty()) checkpoint::require_unused(options.out);
  auto evaluator = std::make_unique<train::Evaluator>(eval, runtime);
  return {eval, std::move(evaluator), load_model(options.model, runtime)};
}

void tell(const EvalOptions& options, const train::EvalOptions& eval, const train::EvalResult& result) {
  std::fputs(train::to_table(result).c_str(), stdout);
  if (!options.json.empty()) io::write_file_atomic(options.json, train::to_json(eval, result));
  if (options.out.empty()) return;
  checkpoint::build_folder(
      options.out, [&](const std::filesystem::path& folder) { monitor::write_samples(folder, result.samples); });
}

int evaluate(const EvalOptions& options, const Runtime& runtime) {
  const auto [eval, evaluator, model] = together(runtime, "inputs", [&] { return read_inputs(options, runtime); });
  if (is_root(runtime)) tell_settings(eval.generation, model->eos_id());
  const train::EvalResult result = evaluator->evaluate(*model, eval);
  runtime.stop.throw_if_requested();  // then it is not complete
  on_root(runtime, 0, "result", [&] { tell(options, eval, result); });
  if (!result.score().value) throw RuntimeFailure("{}: {}", eval.prompts, train::describe(result));
  return 0;
}

}  // namespace

int run(const EvalOptions& options) {
  return run_on_ranks(
      [&](const auto& world) -> Preparation { return {runtime_of(options.model, options.seed, world)}; },
      [&](const Runtime& runtime) { return evaluate(options, runtime); });
}

}  // namespace unigrpo::cli
