#include "planner/phases.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

/// Chunks of a task's samples: fewer where several tasks pass each other anyway.
int64_t chunks_of(int64_t samples, size_t tasks) {
  return std::min<int64_t>(tasks > 1 ? 2 : 4, std::max<int64_t>(1, samples));
}

/// Parameters that a token passes: one expert of every layer.
double active_parameters(const ModelShape& m) {
  const double kv = real(m.hidden) * real(m.kv_heads) / real(m.heads);
  return real(m.layers) * (2 * real(m.hidden) * real(m.hidden) + 2 * real(m.hidden) * kv +
                           3 * real(m.hidden) * real(m.intermediate)) +
         real(m.hidden) * real(m.vocab);
}

/// Optimizer step u needs the chunks that hold its samples, and step u - 1.
/// `ends`: the last module of each chunk, task by task.
void add_updates(const RolloutShape& rollout, int64_t ranks, const std::vector<std::vector<size_t>>& ends,
                 PhasePlan& plan) {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [n, ms] : rollout.update_ms) least = n <= ranks ? std::min(least, ms) : least;
  plan.phases.push_back({"update", least * real(rollout.minibatches)});
  plan.colocated_ms += plan.phases.back().alone_ms;
  for (int64_t u = 0; u < rollout.minibatches; ++u) {
    MetaOp op{.name = fmt::format("update {}", u), .layers = 1, .ms = rollout.update_ms, .deps = {}};
    for (const std::vector<size_t>& task : ends) {
      const auto chunks = std::ssize(task);
      const int64_t first = u * chunks / rollout.minibatches,
                    last = ((u + 1) * chunks + rollout.minibatches - 1) / rollout.minibatches;
      for (int64_t c = first; c < last; ++c) op.deps.push_back(task[static_cast<size_t>(c)]);
    }
    if (u > 0) op.deps.push_back(plan.ops.size() - 1);
    plan.ops.push_back(std::move(op));
  }
}

using Time = std::function<double(int64_t, int64_t)>;  // of how many samples on how many ranks
using Modules = std::vector<std::pair<std::string, Time>>;

// A module of `samples` on n ranks, b = ceil(samples / n) of them a rank:
//
//   prefill  2 parameters tokens / products                   of each prompt
//   decode   tokens * max(weights / memory bandwidth, 2 parameters b / products)      a token reads every weight once
//   denoise  steps * b * 2 parameters tokens / products
//   reward   b * reward_ms
Modules modules_of(const ModelShape& shape, const RolloutShape& rollout) {
  const double parameters = active_parameters(shape);
  const double read_ms = parameters * (rollout.half ? 2 : 4) / (rollout.memory_gbps * 1e6);
  const auto products_ms = [=](double tokens) { return 2 * parameters * tokens / (rollout.tflops * 1e9); };
  const auto share = [](int64_t samples, int64_t n) { return std::ceil(real(samples) / real(n)); };
  const int64_t group = std::max<int64_t>(1, rollout.samples / std::max<int64_t>(1, rollout.prompts));
  Modules modules;
  if (rollout.prompt_tokens > 0) {
    modules.emplace_back("prefill", [=](int64_t samples, int64_t n) {
      return share((samples + group - 1) / group, n) * products_ms(real(rollout.prompt_tokens));
    });
  }
  if (rollout.text_tokens > 0) {
    modules.emplace_back("decode", [=](int64_t samples, int64_t n) {
      return real(rollout.text_tokens) * std::max(read_ms, products_ms(share(samples, n)));
    });
  }
  if (rollout.image_tokens > 0 && rollout.denoise_steps > 0) {
    modules.emplace_back("denoise", [=](int64_t samples, int64_t n) {
      return real(rollout.denoise_steps) * share(samples, n) * products_ms(real(rollout.image_tokens));
    });
  }
  if (rollout.reward_ms > 0) {
    modules.emplace_back("reward", [=](int64_t samples, int64_t n) { return share(samples, n) * rollout.reward_ms; });
  }
  for (auto& [name, time] : modules) {
    if (!rollout.task.empty()) name += " " + rollout.task;
  }
  return modules;
}

/// A task's modules, chunk behind chunk. Returns the last module of each.
std::vector<size_t> add_task(const ModelShape& shape, const RolloutShape& rollout, int64_t ranks, int64_t chunks,
                             PhasePlan& out) {
  const Modules modules = modules_of(shape, rollout);
  for (const auto& [name, ms] : modules) {
    out.phases.push_back({name, ms(rollout.samples, ranks)});
    out.colocated_ms += out.phases.back().alone_ms;
  }
  std::vector<size_t> ends;
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t samples = rollout.samples * (c + 1) / chunks - rollout.samples * c / chunks;
    for (size_t m = 0; m < modules.size(); ++m) {
      MetaOp op{.name = fmt::format("{} {}", modules[m].first, c), .layers = 1, .ms = {}, .deps = {}};
      for (int64_t n = 1; n <= ranks; n *= 2) op.ms[n] = modules[m].second(samples, n);
      op.ms[ranks] = modules[m].second(samples, ranks);
      if (m > 0) op.deps.push_back(out.ops.size() - 1);
      out.ops.push_back(std::move(op));
    }
    if (!modules.empty()) ends.push_back(out.ops.size() - 1);
  }
  return ends;
}

}  // namespace

PhasePlan plan_phases(const ModelShape& shape, std::span<const RolloutShape> tasks, const Cluster& cluster) {
  PhasePlan out;
  const int64_t ranks = cluster.world();
  std::vector<std::vector<size_t>> ends;
  for (const RolloutShape& task : tasks) {
    ends.push_back(add_task(shape, task, ranks, chunks_of(task.samples, tasks.size()), out));
  }
  if (!tasks.empty() && !tasks.front().update_ms.empty()) add_updates(tasks.front(), ranks, ends, out);
  if (!out.ops.empty()) out.waves = schedule_waves(out.ops, ranks);
  return out;
}

}  // namespace unigrpo::planner
