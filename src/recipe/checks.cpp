#include "recipe/checks.h"

#include <fmt/format.h>

#include "grpo/rules.h"
#include "policy/rules.h"
#include "reward/rules.h"
#include "rollout/rules.h"

namespace unigrpo::recipe {
namespace {

using Finding = std::optional<Conflict>;

Finding check_policy(const Recipe& recipe, Command) { return policy::validate(recipe.policy); }

Finding check_rollout(const Recipe& recipe, Command) { return rollout::validate(recipe.rollout); }

Finding check_grpo(const Recipe& recipe, Command) { return grpo::validate(recipe.grpo, recipe.rollout); }

Finding check_something_is_trained(const Recipe& recipe, Command command) {
  if (command != Command::sft) return grpo::validate_weights(recipe.grpo, recipe.rollout);
  const SftConfig& sft = recipe.sft;
  if (sft.stage != SftStage::joint || sft.text_weight > 0 || sft.image_weight > 0) return {};
  return Conflict{{"sft.text_weight", "sft.image_weight"},
                  "expected a weight > 0 here or in sft.image_weight: nothing is trained"};
}

/// Examples without their prompt are trained on their last image, which an answer and a description have not.
Finding check_prompt_dropout(const Recipe& recipe, Command command) {
  const SftConfig& sft = recipe.sft;
  if (command != Command::sft || sft.stage != SftStage::joint || sft.prompt_dropout < 1) return {};
  if (sft.answer + sft.describe < 1) return {};
  return Conflict{{"sft.prompt_dropout", "sft.answer", "sft.describe"},
                  "expected below 1 where all examples end in a text: nothing is trained"};
}

Finding check_rewards(const Recipe& recipe, Command command) {
  if (command == Command::train) return reward::validate(recipe.reward, recipe.rollout.episode);
  return reward::validate(recipe.reward, {});
}

Finding check_eval(const Recipe& recipe, Command) {
  for (size_t i = 0; i < recipe.eval.rewards.size(); ++i) {
    if (Finding conflict = reward::validate(recipe.eval.rewards[i], fmt::format("eval.rewards.{}", i))) return conflict;
  }
  if (!recipe.eval.keep_best || (recipe.eval.every > 0 && !recipe.eval.prompts.empty())) return {};
  return Conflict{{"eval.keep_best", "eval.every", "eval.prompts"}, "expected eval.every > 0 and eval.prompts with it"};
}

Finding check_parallel(const Recipe& recipe, Command command) {
  const parallel::ParallelConfig& parallel = recipe.parallel;
  if (!parallel.exact_reduction) return {};
  if (command == Command::sft) {
    return Conflict{{"parallel.exact_reduction"}, "expected false: `unigrpo sft` sums in the order of ranks"};
  }
  if (parallel.reduce == parallel::Reduce::last) {
    return Conflict{{"parallel.exact_reduction", "parallel.reduce"},
                    "expected reduce = \"each\" with it: the sum of a rank's micro-batches is no pair's"};
  }
  if (recipe.grpo.advantage.zero_std == grpo::ZeroStd::resample) {
    return Conflict{{"parallel.exact_reduction", "grpo.advantage.zero_std"},
                    "expected another zero_std than \"resample\" with it: groups that are drawn anew change ranks"};
  }
  return {};
}

}  // namespace

std::optional<Conflict> find_conflict(const Recipe& recipe, Command command) {
  for (const auto check : {check_policy, check_rollout, check_something_is_trained, check_prompt_dropout, check_grpo,
                           check_rewards, check_eval, check_parallel}) {
    if (Finding found = check(recipe, command)) return found;
  }
  return {};
}

}  // namespace unigrpo::recipe
