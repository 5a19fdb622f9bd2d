#include "train/step_metrics.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <sys/resource.h>

#include <algorithm>

#include "base/statistics.h"
#include "grpo/update_stats.h"

namespace unigrpo::train {
namespace {

/// Texts of one turn: an episode's n-th text.
struct TextCounts {
  double texts = 0, tokens = 0, truncated = 0, entropy = 0, scored_tokens = 0;
};

}  // namespace

void reward_metrics(std::span<const TaskStep> tasks, const std::string& prefix, Metrics& out) {
  std::vector<double> rewards;
  std::map<std::string, std::pair<double, double>> sums;  // name -> sum, count
  double dropped = 0, silent = 0, groups = 0;
  for (const TaskStep& task : tasks) {
    for (const auto& reward : task.advantages.rewards) {
      if (reward) rewards.push_back(*reward);
    }
    const std::vector<std::string>& terms = task.scores.terms;
    for (const auto& row : task.scores.scores) {
      for (size_t k = 0; k < terms.size(); ++k) {
        auto add = [&](const std::string& name, double value) {
          sums["reward/" + name].first += value;
          sums["reward/" + name].second += 1;
        };
        if (row[k].value) add(terms[k], *row[k].value);
        for (const auto& [part, value] : row[k].parts) add(terms[k] + "_" + part, value);
      }
    }
    dropped += static_cast<double>(task.advantages.num_dropped);
    silent += static_cast<double>(task.advantages.num_zero_std_groups());
    groups += static_cast<double>(task.advantages.num_groups);
  }
  if (!rewards.empty()) {
    const Spread spread = spread_of(rewards);
    out[prefix + "reward/mean"] = spread.mean;
    out[prefix + "reward/std"] = spread.std;
  }
  for (const auto& [name, sum] : sums) out[prefix + name] = sum.first / sum.second;
  out[prefix + "reward/dropped"] = dropped;
  out[prefix + "advantage/zero_std_ratio"] = groups > 0 ? silent / groups : 0.0;
}

void clip_metrics(const grpo::Advantages& advantages, Metrics& out) {
  std::vector<double> video, audio;
  for (size_t n = 0; n < advantages.keep.size(); ++n) {
    if (!advantages.keep[n]) continue;
    video.push_back(advantages.video[n]);
    audio.push_back(advantages.audio[n]);
  }
  if (video.empty()) return;
  const Spread of_video = spread_of(video), of_audio = spread_of(audio);
  if (of_video.std == 0 || of_audio.std == 0) return;
  double product = 0;
  for (size_t n = 0; n < video.size(); ++n) product += (video[n] - of_video.mean) * (audio[n] - of_audio.mean);
  out["av/advantage_correlation"] = product / static_cast<double>(video.size()) / (of_video.std * of_audio.std);
}

void task_metrics(const Step& step, int64_t group_size, Metrics& out) {
  for (const TaskStep& task : step.tasks) {
    if (task.name.empty()) continue;
    const std::string prefix = "task/" + task.name + "/";
    const std::span all(step.trajectories);
    out[prefix + "prompts"] = static_cast<double>(task.num_samples()) / static_cast<double>(group_size);
    reward_metrics(std::span(&task, 1), prefix, out);
    text_metrics(all.subspan(task.first, task.num_samples()), prefix, out);
  }
}

void text_metrics(std::span<const rollout::Trajectory> trajectories, const std::string& prefix, Metrics& out) {
  std::vector<TextCounts> turns;
  for (const auto& trajectory : trajectories) {
    if (turns.size() < trajectory.texts.size()) turns.resize(trajectory.texts.size());
    for (size_t turn = 0; turn < trajectory.texts.size(); ++turn) {
      const rollout::TextSegment& text = trajectory.texts[turn];
      TextCounts& counts = turns[turn];
      counts.texts += 1;
      counts.tokens += static_cast<double>(text.ids.size());
      counts.truncated += text.finished ? 0 : 1;
      counts.entropy += text.entropy.sum().item<double>();
      counts.scored_tokens += static_cast<double>(text.entropy.numel());
    }
  }
  for (size_t turn = 0; turn < turns.size(); ++turn) {
    const TextCounts& counts = turns[turn];
    out[prefix + grpo::turn_metric(static_cast<int64_t>(turn), "text/length")] = counts.tokens / counts.texts;
    out[prefix + grpo::turn_metric(static_cast<int64_t>(turn), "text/truncated_ratio")] =
        counts.truncated / counts.texts;
    out[prefix + grpo::turn_metric(static_cast<int64_t>(turn), "text/entropy")] =
        counts.entropy / std::max(counts.scored_tokens, 1.0);
  }
}

void Drawn::count(std::span<const rollout::Trajectory> trajectories) {
  for (const auto& trajectory : trajectories) {
    for (const rollout::FlowSegment& flow : trajectory.flows) (flow.streams.size() > 1 ? clips : images) += 1;
    for (const rollout::TextSegment& text : trajectory.texts) tokens += static_cast<double>(text.ids.size());
  }
}

void Drawn::rates(const std::string& prefix, double seconds, Metrics& out) const {
  if (tokens > 0) out[prefix + "tokens_per_s"] = tokens / seconds;
  if (images > 0) out[prefix + "images_per_s"] = images / seconds;
  if (clips > 0) out[prefix + "clips_per_s"] = clips / seconds;
}

double peak_bytes(at::Device device) {
  if (device.is_cuda()) {
    const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return static_cast<double>(stats.reserved_bytes[kAll].peak);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024.0;
}

}  // namespace unigrpo::train
