#include "train/grpo_objective.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "checkpoint/export_model.h"
#include "data/prompt_file.h"
#include "data/prompt_sampler.h"
#include "grpo/update.h"
#include "monitor/failures_file.h"
#include "policy/sharded.h"
#include "runtime/ranks.h"
#include "train/build.h"
#include "train/draw.h"
#include "train/out_of_memory.h"
#include "train/step_hook.h"
#include "train/step_metrics.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;
using Trajectories = std::span<const rollout::Trajectory>;

std::vector<int64_t> group_ids(Trajectories trajectories) {
  std::vector<int64_t> ids;
  for (const auto& trajectory : trajectories) ids.push_back(trajectory.prompt_index);
  return ids;
}

std::vector<std::string> prompt_ids(Trajectories trajectories) {
  std::vector<std::string> ids;
  for (const auto& trajectory : trajectories) {
    const std::string& id = trajectory.sample.id;  // <prompt id>/<sample index>
    ids.push_back(id.substr(0, id.rfind('/')));
  }
  return ids;
}

/// Which samples have a text that is penalized for being truncated; empty: the recipe penalizes none.
std::vector<bool> penalized(const grpo::TextLossConfig& config, Trajectories trajectories) {
  std::vector<bool> samples;
  if (config.truncated != grpo::Truncated::penalize) return samples;
  for (const auto& trajectory : trajectories) {
    samples.push_back(std::ranges::any_of(trajectory.texts, [](const auto& text) { return !text.finished; }));
  }
  return samples;
}

/// A line in the step's file of failures for each score that a term did not give, and a note with the first.
void tell_failures(const Step& step, Trajectories trajectories, const reward::ScoreTable& table,
                   const RunContext& run) {
  std::vector<monitor::Failure> failures;
  for (size_t i = 0; i < trajectories.size(); ++i) {
    for (size_t k = 0; k < table.terms.size(); ++k) {
      const reward::Score& score = table.scores[i][k];
      if (score.value) continue;
      failures.push_back({.step = step.number(),
                          .reward = table.terms[k],
                          .sample = trajectories[i].sample.id,
                          .prompt = trajectories[i].sample.prompt,
                          .reason = score.reason});
    }
  }
  if (failures.empty() || !is_root(run.runtime)) return;
  const fs::path file = run.folder.failures_file(step.number());
  monitor::write_failures(file, failures);
  run.monitor.note(fmt::format("{} scores are missing; the first: reward '{}', sample {}: {} (all in {})",
                               failures.size(), failures.front().reward, failures.front().sample,
                               failures.front().reason, file.string()));
}

void tell_noise(const Recipe& recipe, const grpo::LogProbNoise& noise, monitor::Monitor& monitor) {
  const auto& [text, image] = std::tie(recipe.grpo.text, recipe.grpo.image);
  monitor.note(
      fmt::format("log-prob noise between rollout and update: text {:.1e} (clip {} / {}), image {:.1e} (clip {})",
                  noise.text, text.clip_low, text.clip_high, noise.image, image.clip_range));
  const auto warn = [&](double range, double floor, const char* key) {
    if (range >= floor) return;
    monitor.note(
        fmt::format("warning: {} = {} is below the measured noise {:.1e}: clipping acts on noise", key, range, floor));
  };
  if (text.weight > 0) warn(text.clip_low, noise.text, "grpo.text.clip_low");
  if (image.weight > 0) warn(image.clip_range, noise.image, "grpo.image.clip_range");
}

class GrpoObjective : public Objective {
 public:
  GrpoObjective(const Recipe& recipe, const Runtime& runtime)
      : recipe_(recipe),
        runtime_(runtime),
        prompts_(data::read_prompt_file(recipe.data.prompts)),
        rewarder_(build_rewarder(recipe.reward, runtime)),
        policies_(build_policies(recipe, runtime)),
        generation_(generation_of(recipe)),
        engine_(*policies_.policy, recipe.rollout, runtime, generation_.system_prompt),
        sampler_(prompts_, runtime.seed, recipe.grpo.prompts_per_step) {
    if (const auto told = told_left_out(generation_, policies_.policy->eos_id()); !told.empty()) log::warn(told);
    rewarder_.check_prompts(prompts_, recipe.data.prompts);
    for (const data::Prompt& prompt : prompts_) engine_.check_length(prompt);
    if (std::ranges::count(recipe.rollout.episode, data::SegmentKind::image) > 0) {
      policies_.policy->grid_for(recipe.rollout.image_size);
    }
  }

  NamedTensors parameters() const override { return policy::trained_parameters(*policies_.policy); }
  policy::UnifiedPolicy* policy() override { return policies_.policy.get(); }
  rollout::RolloutEngine* engine() override { return &engine_; }
  std::span<const data::Prompt> prompts() const override { return prompts_; }
  const GenerationConfig& generation() const override { return generation_; }
  std::vector<Stateful*> stateful() override { return {&statistics_}; }

  std::string describe() const override {
    return describe_step(recipe_, *policies_.policy, policy::num_tokens(engine_.prefix(prompts_.front())));
  }

  bool sample(Step& step, const RunContext& run) override {
    Stopwatch phase;
    run.enter(step.number(), "rollout");
    fault::point("rollout.begin");
    drawn_ = {};
    rollout_seconds_ = 0;
    const data::PromptBatch prompts = sampler_.batch(step.index);
    std::optional<Batch> batch = draw_groups(step, prompts.prompts, 0, run, [&] {
      fault::point("rollout.end");
      run.enter(step.number(), "reward");
      fault::point("reward.begin");
    });
    if (!batch) return false;
    step.trajectories = std::move(batch->trajectories);
    step.scores = std::move(batch->scores);
    fault::point("advantage");
    step.advantages = advantages_of(step);
    if (recipe_.grpo.advantage.zero_std == grpo::ZeroStd::resample && !resample(step, run)) return false;
    tell_failures(step, step.trajectories, step.scores, run);
    refuse_too_many_dropped(step);
    text_metrics(step.trajectories, step.metrics);
    reward_metrics(step.scores, step.advantages, step.metrics);
    drawn_.rates("throughput/rollout_", rollout_seconds_, step.metrics);
    step.metrics["time/rollout"] = rollout_seconds_;
    step.metrics["time/reward"] = phase.seconds() - rollout_seconds_;
    return true;
  }

  bool update(Step& step, const Optimization& optimization, const RunContext& run) override {
    if (stop_asked(runtime_)) return false;
    const grpo::UpdateSetup setup{.policy = *policies_.policy,
                                  .reference = policies_.reference.get(),
                                  .optimizer = optimization.optimizer,
                                  .clip = optimization.clip,
                                  .config = recipe_.grpo,
                                  .rollout = recipe_.rollout,
                                  .runtime = runtime_};
    if (!std::exchange(noise_told_, true)) {
      tell_noise(recipe_, grpo::measure_log_prob_noise(setup, step.trajectories), run.monitor);
    }
    auto stats = grpo::update(setup, step.trajectories, step.advantages, optimization.lr_factor);
    if (!stats) return false;
    statistics_ = step.advantages.statistics;
    step.metrics.merge(*stats);
    drawn_.rates("throughput/", step.watch.seconds(), step.metrics);
    return true;
  }

  fs::path output(const fs::path& run_dir) const override { return run_dir / "final"; }

  // Nothing in it names the run: equal weights are equal bytes.
  void write_model(const fs::path& destination, int64_t /*step*/) override {
    checkpoint::ExportOptions options;
    options.dtype = recipe_.policy.dtype == policy::DtypeChoice::float32 ? at::kFloat : at::kBFloat16;
    options.generation_config = written_generation(recipe_);
    checkpoint::export_model(recipe_.policy.model, destination, policies_.policy->merged(), options);
  }

 private:
  /// Rewards judge the groups as they come. Where reward.on_error = stop ends the run, what failed is on disk before.
  /// Empty where a stop came.
  std::optional<Batch> draw_groups(const Step& step, std::span<const data::Prompt> prompts, int64_t first_sample,
                                   const RunContext& run, std::function<void()> on_sampled) {
    DrawRequest request{.rollout = request_for(prompts, recipe_.grpo.group_size), .on_sampled = std::move(on_sampled)};
    request.keeps_groups = recipe_.parallel.exact_reduction;
    request.rollout.guidance.text_scale = recipe_.rollout.rollout_cfg_scale;
    request.rollout.first_sample = first_sample;
    request.rollout.step = static_cast<uint64_t>(step.index) + 1;
    std::optional<Batch> batch = within_memory("rollout", "rollout.token_budget", recipe_.rollout.token_budget,
                                               [&] { return draw(engine_, rewarder_, runtime_, std::move(request)); });
    if (!batch) return std::nullopt;
    rollout_seconds_ += batch->rollout_seconds;
    drawn_.count(batch->trajectories);
    if (batch->missing) {
      tell_failures(step, batch->trajectories, batch->scores, run);
      std::rethrow_exception(batch->missing);
    }
    return batch;
  }

  grpo::Advantages advantages_of(const Step& step) const {
    return grpo::compute_advantages(recipe_.grpo.advantage, step.scores, group_ids(step.trajectories),
                                    recipe_.reward.on_error, recipe_.reward.terms, prompt_ids(step.trajectories),
                                    statistics_, penalized(recipe_.grpo.text, step.trajectories));
  }

  /// Groups without spread are replaced by those of other prompts, from further down the prompt order (DAPO's dynamic
  /// sampling, arXiv 2503.14476); what still has none after max_resamples draws leaves the batch. False: a stop came.
  bool resample(Step& step, const RunContext& run) {
    constexpr int64_t kFarAway = int64_t{1} << 40;  // steps that no run reaches
    const int64_t draws = recipe_.grpo.advantage.max_resamples, group_size = recipe_.grpo.group_size;
    for (int64_t draw = 0; draw < draws && !step.advantages.zero_std_group_ids.empty(); ++draw) {
      const data::PromptBatch spare = sampler_.batch(kFarAway + step.index * draws + draw);
      const auto& empty_groups = step.advantages.zero_std_group_ids;
      const int64_t first_sample = (draw + 1) * group_size;
      const size_t replaced = std::min(spare.prompts.size(), empty_groups.size());
      auto batch = draw_groups(step, std::span(spare.prompts).first(replaced), first_sample, run, {});
      if (!batch) return false;
      for (size_t i = 0; i < batch->trajectories.size(); ++i) {
        rollout::Trajectory& fresh = batch->trajectories[i];
        const int64_t group = empty_groups[fresh.prompt_index];
        const auto slot = static_cast<size_t>(group * group_size + fresh.sample_index - first_sample);
        fresh.prompt_index = group;
        fresh.sample.group = group;
        step.trajectories[slot] = std::move(fresh);
        step.scores.scores[slot] = std::move(batch->scores.scores[i]);
      }
      step.advantages = advantages_of(step);
    }
    return true;
  }

  void refuse_too_many_dropped(const Step& step) const {
    const size_t samples = step.trajectories.size();
    const int64_t dropped = step.advantages.num_dropped;
    if (static_cast<double>(dropped) <= recipe_.reward.max_dropped * static_cast<double>(samples)) return;
    throw RuntimeFailure("step {}: {} of {} samples have no reward, more than reward.max_dropped = {} allows",
                         step.number(), dropped, samples, recipe_.reward.max_dropped);
  }

  const Recipe& recipe_;
  const Runtime& runtime_;
  std::vector<data::Prompt> prompts_;
  reward::Rewarder rewarder_;
  Policies policies_;
  GenerationConfig generation_;
  rollout::RolloutEngine engine_;
  data::PromptSampler sampler_;
  grpo::RunningStatistics statistics_;  // as they stand after the last finished step
  Drawn drawn_;                         // in the step under way, those that were replaced among them
  double rollout_seconds_ = 0;          // of it
  bool noise_told_ = false;
};

}  // namespace

std::unique_ptr<Objective> make_grpo_objective(const Recipe& recipe, const Runtime& runtime) {
  return std::make_unique<GrpoObjective>(recipe, runtime);
}

}  // namespace unigrpo::train
