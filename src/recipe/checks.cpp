#include "recipe/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>

#include "base/text.h"
#include "grpo/rules.h"
#include "policy/rules.h"
#include "recipe/tasks.h"
#include "reward/rules.h"
#include "rollout/rules.h"

namespace unigrpo::recipe {
namespace {

using Finding = std::optional<Conflict>;

Finding check_policy(const Recipe& recipe, Command) { return policy::validate(recipe.policy); }

/// A task's conflict under the keys that it stands at in the recipe: those of [rollout] that the task sets are its own,
/// and its rewards are counted among all.
Conflict of_task(const TaskConfig& config, const Task& task, Conflict conflict) {
  constexpr std::string_view kRewards = "rewards.";
  const std::pair<const char*, bool> own[] = {{"episode", !config.episode.empty()},
                                              {"num_steps", config.num_steps > 0},
                                              {"image_size", config.image_size > 0},
                                              {"max_tokens", config.max_tokens > 0}};
  for (std::string& key : conflict.keys) {
    for (const auto& [name, is_own] : own) {
      if (is_own && key == std::string("rollout.") + name) key = fmt::format("{}.{}", task.key, name);
    }
    if (!key.starts_with(kRewards)) continue;
    size_t digits = 0;
    const size_t term = std::stoul(key.substr(kRewards.size()), &digits);
    key = fmt::format("{}{}{}", kRewards, task.terms[term], key.substr(kRewards.size() + digits));
  }
  conflict.keys.push_back(task.key + ".name");
  conflict.message += fmt::format(" (task \"{}\")", task.name);
  return conflict;
}

/// The first conflict that `check` finds in a task.
Finding in_tasks(const Recipe& recipe, const std::function<Finding(const Task&)>& check) {
  const std::vector<Task> tasks = tasks_of(recipe);
  for (size_t t = 0; t < tasks.size(); ++t) {
    Finding found = check(tasks[t]);
    if (found && tasks[t].is_named()) return of_task(recipe.tasks[t], tasks[t], *std::move(found));
    if (found) return found;
  }
  return {};
}

Finding check_rollout(const Recipe& recipe, Command) {
  if (recipe.rollout.graphs && recipe.policy.device == "cpu") {
    return Conflict{{"rollout.graphs", "policy.device"},
                    "expected false with policy.device = \"cpu\": graphs are CUDA's"};
  }
  return in_tasks(recipe, [](const Task& task) { return rollout::validate(task.rollout); });
}

Finding check_grpo(const Recipe& recipe, Command) {
  return in_tasks(recipe, [&](const Task& task) { return grpo::validate(recipe.grpo, task.rollout); });
}

/// Keys that every task must not share with another, and that make no sense of all of them.
Finding check_tasks(const Recipe& recipe, Command command) {
  std::set<std::string> names, judges;
  std::vector<std::string> shares;
  std::set<int64_t> bends;
  for (const reward::TermConfig& term : recipe.reward.terms) judges.insert(reward::term_name(term));
  for (size_t i = 0; i < recipe.tasks.size(); ++i) {
    const TaskConfig& task = recipe.tasks[i];
    const std::string key = fmt::format("tasks.{}", i);
    if (!names.insert(task.name).second) {
      return Conflict{{key + ".name"},
                      fmt::format("expected a name of its own, got \"{}\" as another task", task.name)};
    }
    for (const std::string& reward : task.rewards) {
      if (judges.contains(reward)) continue;
      return Conflict{{key + ".rewards"},
                      fmt::format("expected names of [[rewards]] ({}), got \"{}\"",
                                  join(std::vector<std::string>(judges.begin(), judges.end()), ", "), reward)};
    }
    shares.push_back(key + ".share");
    for (const Share::Point& point : task.share.points) bends.insert(point.step);
  }
  if (recipe.tasks.empty()) return {};
  const std::vector<Task> tasks = tasks_of(recipe);
  for (size_t i = 1; i < tasks.size(); ++i) {
    const auto draws_clips = [](const Task& task) { return has_segment(task.rollout, data::SegmentKind::av); };
    if (draws_clips(tasks[i]) == draws_clips(tasks[0])) continue;
    return Conflict{{fmt::format("tasks.{}.episode", i), "rollout.episode"},
                    "expected av segments in all tasks or in none"};
  }
  // Sums of straight pieces that are never below 0 are 0 somewhere only where they are at a bend.
  for (const int64_t step : bends) {
    if (std::ranges::any_of(recipe.tasks, [&](const TaskConfig& task) { return task.share.at(step) > 0; })) continue;
    return Conflict{shares,
                    fmt::format("expected a share above 0 of one task at least, after {} steps all are 0", step)};
  }
  if (command == Command::sft || recipe.data.prompts.empty()) return {};
  return Conflict{{"data.prompts", "tasks"},
                  "expected no such key beside [[tasks]], each of which has its own prompts"};
}

Finding check_something_is_trained(const Recipe& recipe, Command command) {
  if (command != Command::sft) {
    return in_tasks(recipe, [&](const Task& task) { return grpo::validate_weights(recipe.grpo, task.rollout); });
  }
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
  if (command != Command::train) return reward::validate(recipe.reward, {});
  if (!recipe.tasks.empty()) {  // a gate, say, may be another task's
    if (Finding found = reward::validate(recipe.reward, {})) return found;
  }
  return in_tasks(recipe, [](const Task& task) { return reward::validate(task.reward, task.rollout.episode); });
}

Finding check_eval(const Recipe& recipe, Command) {
  for (size_t i = 0; i < recipe.eval.rewards.size(); ++i) {
    if (Finding conflict = reward::validate(recipe.eval.rewards[i], fmt::format("eval.rewards.{}", i))) return conflict;
  }
  if (!recipe.eval.keep_best || (recipe.eval.every > 0 && !recipe.eval.prompts.empty())) return {};
  return Conflict{{"eval.keep_best", "eval.every", "eval.prompts"}, "expected eval.every > 0 and eval.prompts with it"};
}

/// Of keys that go with ranks by themselves only.
Finding check_spread(const parallel::ParallelConfig& parallel, const std::string& key) {
  const auto needs = [&key](const char* other, const char* what) -> Finding {
    return Conflict{{fmt::format("parallel.{}", other), "parallel." + key},
                    fmt::format("expected {} with {}", what, key)};
  };
  if (parallel.sp != 1) return needs("sp", "1");
  if (parallel.tp != 1) return needs("tp", "1");
  if (!parallel.plan.empty()) return needs("plan", "an empty string");
  if (parallel.exact_reduction) return needs("exact_reduction", "false");
  return {};
}

Finding check_flexible_sp(const parallel::ParallelConfig& parallel, Command command) {
  if (!parallel.flexible_sp) {
    if (parallel.profile.empty()) return {};
    return Conflict{{"parallel.profile", "parallel.flexible_sp"},
                    "expected flexible_sp = true with it: nothing else reads it"};
  }
  if (command == Command::sft) return Conflict{{"parallel.flexible_sp"}, "expected false: `unigrpo sft` has none"};
  return check_spread(parallel, "flexible_sp");
}

Finding check_reward_ranks(const parallel::ParallelConfig& parallel, Command command) {
  if (parallel.reward_ranks == 0) return {};
  if (command == Command::sft) return Conflict{{"parallel.reward_ranks"}, "expected 0: `unigrpo sft` has no rewards"};
  return check_spread(parallel, "reward_ranks");
}

Finding check_parallel(const Recipe& recipe, Command command) {
  const parallel::ParallelConfig& parallel = recipe.parallel;
  if (Finding found = check_flexible_sp(parallel, command)) return found;
  if (Finding found = check_reward_ranks(parallel, command)) return found;
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
  for (const auto check : {check_policy, check_tasks, check_rollout, check_something_is_trained, check_prompt_dropout,
                           check_grpo, check_rewards, check_eval, check_parallel}) {
    if (Finding found = check(recipe, command)) return found;
  }
  return {};
}

}  // namespace unigrpo::recipe
