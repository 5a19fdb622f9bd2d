#include "recipe/tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "reward/rules.h"

namespace unigrpo::recipe {
namespace {

/// A quota that is whole up to rounding is whole: 10 * 0.3 / 1.
double snapped(double quota) {
  const double whole = std::round(quota);
  return std::abs(quota - whole) < 1e-9 * std::max(1.0, whole) ? whole : quota;
}

Task task_of(const Recipe& recipe, size_t index) {
  const TaskConfig& config = recipe.tasks[index];
  Task task{.name = config.name,
            .key = fmt::format("tasks.{}", index),
            .prompts = config.prompts,
            .eval_prompts = config.eval_prompts,
            .rollout = recipe.rollout,
            .reward = recipe.reward,
            .terms = {},
            .share = config.share};
  if (!config.episode.empty()) task.rollout.episode = config.episode;
  if (config.num_steps > 0) task.rollout.num_steps = config.num_steps;
  if (config.image_size > 0) task.rollout.image_size = config.image_size;
  if (config.max_tokens > 0) task.rollout.max_tokens = config.max_tokens;
  if (!config.system_prompt.empty()) task.rollout.system_prompt = config.system_prompt;
  task.reward.terms.clear();
  for (size_t k = 0; k < recipe.reward.terms.size(); ++k) {
    const reward::TermConfig& term = recipe.reward.terms[k];
    const bool judges = config.rewards.empty() || std::ranges::count(config.rewards, reward::term_name(term)) > 0;
    if (!judges) continue;
    task.terms.push_back(k);
    task.reward.terms.push_back(term);
  }
  return task;
}

}  // namespace

double Share::at(int64_t step) const {
  const auto after = std::ranges::upper_bound(points, step, {}, &Point::step);
  if (after == points.begin()) return points.front().share;
  if (after == points.end()) return points.back().share;
  const Point& before = *(after - 1);
  const double way = static_cast<double>(step - before.step) / static_cast<double>(after->step - before.step);
  return before.share + way * (after->share - before.share);
}

std::string Task::at(const Recipe& recipe, std::string_view field) const {
  if (!is_named()) return "";
  const std::string full = fmt::format("{}.{}", key, field);
  const auto found = recipe.given.find(full);
  return found == recipe.given.end() ? full + ": " : fmt::format("{}: {}: ", found->second, full);
}

std::vector<Task> tasks_of(const Recipe& recipe) {
  std::vector<Task> tasks;
  for (size_t i = 0; i < recipe.tasks.size(); ++i) tasks.push_back(task_of(recipe, i));
  if (!tasks.empty()) return tasks;
  Task only{.name = "",
            .key = "",
            .prompts = recipe.data.prompts,
            .eval_prompts = "",
            .rollout = recipe.rollout,
            .reward = recipe.reward,
            .terms = std::vector<size_t>(recipe.reward.terms.size()),
            .share = {}};
  std::iota(only.terms.begin(), only.terms.end(), 0);
  return {std::move(only)};
}

rollout::RolloutConfig joint_rollout(std::span<const Task> tasks) {
  rollout::RolloutConfig joint = tasks.front().rollout;
  for (const Task& task : tasks) joint.max_tokens = std::max(joint.max_tokens, task.rollout.max_tokens);
  return joint;
}

std::vector<int64_t> prompts_of(std::span<const Task> tasks, int64_t prompts, int64_t steps_done) {
  std::vector<double> quotas;
  double largest = 0, sum = 0;
  for (const Task& task : tasks) largest = std::max(largest, quotas.emplace_back(task.share.at(steps_done)));
  for (double& quota : quotas) sum += quota /= largest;
  std::vector<int64_t> counts;
  std::vector<size_t> order(quotas.size());
  std::iota(order.begin(), order.end(), 0);
  for (double& quota : quotas) {
    quota = snapped(quota / sum * static_cast<double>(prompts));
    counts.push_back(static_cast<int64_t>(quota));
    quota -= std::floor(quota);
  }
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return quotas[a] > quotas[b] + 1e-9; });
  const int64_t left = prompts - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (int64_t i = 0; i < left; ++i) ++counts[order[static_cast<size_t>(i) % order.size()]];
  return counts;
}

std::vector<int64_t> changes_of(std::span<const Task> tasks, int64_t prompts, int64_t num_steps, size_t most) {
  std::vector<int64_t> changes = {0};
  int64_t last = 0;  // beyond the last point nothing changes
  for (const Task& task : tasks) last = std::max(last, task.share.points.back().step);
  std::vector<int64_t> before = prompts_of(tasks, prompts, 0);
  for (int64_t step = 1; step <= std::min(last, num_steps - 1) && changes.size() < most; ++step) {
    std::vector<int64_t> now = prompts_of(tasks, prompts, step);
    if (now != before) changes.push_back(step);
    before = std::move(now);
  }
  return changes;
}

}  // namespace unigrpo::recipe
