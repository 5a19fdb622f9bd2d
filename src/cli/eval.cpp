#include <cstdio>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "checkpoint/build_folder.h"
#include "cli/model_commands.h"
#include "cli/model_options.h"
#include "io/atomic_file.h"
#include "monitor/samples_file.h"
#include "reward/rules.h"
#include "runtime/runtime.h"
#include "train/evaluator.h"

namespace unigrpo::cli {

int run(const EvalOptions& options) {
  const auto kind = enum_value<reward::RewardKind>(options.reward);
  if (!kind) throw BadInput("--reward: expected {}, got '{}'", enum_choices<reward::RewardKind>(), options.reward);
  std::vector<reward::TermConfig> rewards = train::default_eval_rewards();
  rewards.front().kind = *kind;
  if (const auto lacks = reward::validate(rewards.front(), "reward")) {
    throw BadInput("--reward: '{}' needs settings, which a recipe can give in [[eval.rewards]]: {}", options.reward,
                   lacks->keys.front() + ": " + lacks->message);
  }
  const train::EvalOptions eval{.model = options.model.model,
                                .prompts = options.prompts,
                                .rewards = rewards,
                                .generation = generation_of(options.model),
                                .seed = options.seed,
                                .num_samples = options.num_samples,
                                .max_prompts = options.max_prompts,
                                .oracle_plan = options.oracle_plan,
                                .keep_samples = options.out.empty() ? 0 : -1};
  if (!options.out.empty()) checkpoint::require_unused(options.out);
  const auto model = load_model(options.model);
  tell_settings(eval.generation, model->eos_id());
  const train::EvalResult result = train::evaluate(*model, eval, make_runtime({}));
  std::fputs(train::to_table(result).c_str(), stdout);
  if (!options.json.empty()) io::write_file_atomic(options.json, train::to_json(eval, result));
  if (!options.out.empty()) {
    checkpoint::build_folder(
        options.out, [&](const std::filesystem::path& folder) { monitor::write_samples(folder, result.samples); });
  }
  return 0;
}

}  // namespace unigrpo::cli
