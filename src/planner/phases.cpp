#include "planner/phases.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace unigrpo::planner {
namespace {

constexpr int64_t kChunks = 4;

double real(int64_t value) { return static_cast<double>(value); }

/// Parameters that a token passes: one expert of every layer.
double active_parameters(const ModelShape& m) {
  const double kv = real(m.hidden) * real(m.kv_heads) / real(m.heads);
  return real(m.layers) * (2 * real(m.hidden) * real(m.hidden) + 2 * real(m.hidden) * kv +
                           3 * real(m.hidden) * real(m.intermediate)) +
         real(m.hidden) * real(m.vocab);
}

}  // namespace

// A module of `samples` on n ranks, b = ceil(samples / n) of them a rank:
//
//   decode   tokens * max(weights / memory bandwidth, 2 parameters b / products)      a step reads every weight once
//   denoise  steps * b * 2 parameters tokens / products
//   reward   b * reward_ms
PhasePlan plan_phases(const ModelShape& shape, const RolloutShape& rollout, const Cluster& cluster) {
  const double parameters = active_parameters(shape);
  const double read_ms = parameters * (rollout.half ? 2 : 4) / (rollout.memory_gbps * 1e6);
  const auto products_ms = [&](double tokens) { return 2 * parameters * tokens / (rollout.tflops * 1e9); };
  const auto decode = [&](double b) { return real(rollout.text_tokens) * std::max(read_ms, products_ms(b)); };
  const auto denoise = [&](double b) {
    return real(rollout.denoise_steps) * b * products_ms(real(rollout.image_tokens));
  };
  const auto reward = [&](double b) { return b * rollout.reward_ms; };

  PhasePlan out;
  const int64_t ranks = cluster.world();
  std::vector<std::pair<const char*, std::function<double(double)>>> modules;
  if (rollout.text_tokens > 0) modules.emplace_back("decode", decode);
  if (rollout.image_tokens > 0 && rollout.denoise_steps > 0) modules.emplace_back("denoise", denoise);
  if (rollout.reward_ms > 0) modules.emplace_back("reward", reward);
  const auto share = [](int64_t samples, int64_t n) { return std::ceil(real(samples) / real(n)); };
  for (const auto& [name, ms] : modules) {
    out.phases.push_back({name, ms(share(rollout.samples, ranks))});
    out.colocated_ms += out.phases.back().alone_ms;
  }
  const int64_t chunk = (rollout.samples + kChunks - 1) / kChunks;
  for (int64_t c = 0; c < kChunks; ++c) {
    for (size_t m = 0; m < modules.size(); ++m) {
      MetaOp op{.name = fmt::format("{} {}", modules[m].first, c), .layers = 1, .ms = {}, .deps = {}};
      for (int64_t n = 1; n <= ranks; n *= 2) op.ms[n] = modules[m].second(share(chunk, n));
      if (ranks > 1) op.ms[ranks] = modules[m].second(share(chunk, ranks));
      if (m > 0) op.deps.push_back(out.ops.size() - 1);
      out.ops.push_back(std::move(op));
    }
  }
  if (!out.ops.empty()) out.waves = schedule_waves(out.ops, ranks);
  return out;
}

}  // namespace unigrpo::planner
