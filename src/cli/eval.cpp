#include <cstdio>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "checkpoint/build_folder.h"
#include "cli/model_commands.h"
#include "cli/model_options.h"
#include "io/atomic_file.h"
#include "monitor/samples_file.h"
#include "recipe/parse.h"
#include "reward/rules.h"
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

}  // namespace

int run(const EvalOptions& options) {
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
  const Runtime runtime = runtime_of(options.model, options.seed);
  train::Evaluator evaluator(eval, runtime);
  const auto model = load_model(options.model, runtime);
  tell_settings(eval.generation, model->eos_id());
  const train::EvalResult result = evaluator.evaluate(*model, eval);
  runtime.stop.throw_if_requested();  // then it is not complete
  std::fputs(train::to_table(result).c_str(), stdout);
  if (!options.json.empty()) io::write_file_atomic(options.json, train::to_json(eval, result));
  if (!options.out.empty()) {
    checkpoint::build_folder(
        options.out, [&](const std::filesystem::path& folder) { monitor::write_samples(folder, result.samples); });
  }
  if (!result.score().value) throw RuntimeFailure("{}: {}", prompts, train::describe(result));
  return 0;
}

}  // namespace unigrpo::cli
