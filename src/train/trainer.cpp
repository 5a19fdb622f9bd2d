#include "train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/signals.h"
#include "base/text.h"
#include "checkpoint/export_model.h"
#include "checkpoint/save.h"
#include "data/prompt_file.h"
#include "data/prompt_sampler.h"
#include "grpo/advantages.h"
#include "grpo/update.h"
#include "io/atomic_file.h"
#include "monitor/alarms.h"
#include "monitor/failures_file.h"
#include "monitor/monitor.h"
#include "monitor/run_folder.h"
#include "monitor/samples_file.h"
#include "optim/adamw.h"
#include "optim/ema.h"
#include "optim/grad_clip.h"
#include "optim/schedule.h"
#include "recipe/parse.h"
#include "reward/rewarder.h"
#include "rollout/engine.h"
#include "train/build.h"
#include "train/evaluator.h"
#include "train/generation_config.h"
#include "train/sample_row.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;

/// Keys that a resumed run may change: how long, how it is watched, how often it is saved.
bool may_change(const std::string& key) {
  return key == "run.num_steps" || key == "run.threads" || key.starts_with("monitor.") ||
         key.starts_with("checkpoint.");
}

void require_same_recipe(const Recipe& recipe, const fs::path& saved) {
  if (!fs::exists(saved)) return;
  std::vector<std::string> keys;
  for (const auto& key : recipe::differing_keys(recipe, recipe::parse(saved, {}, recipe::Command::train))) {
    if (!may_change(key)) keys.push_back(key);
  }
  if (keys.empty()) return;
  throw BadInput("{}: --resume needs the run's own recipe; these keys differ: {}", saved.string(), join(keys, ", "));
}

GenerationConfig generation_of(const Recipe& recipe) {
  GenerationConfig config = read_generation_config(recipe.policy.model);
  config.program = recipe.rollout.program;
  config.image_size = recipe.rollout.image_size;
  config.num_steps = recipe.rollout.num_steps;
  config.timestep_shift = recipe.rollout.timestep_shift;
  config.max_tokens = recipe.rollout.max_tokens;
  config.temperature = recipe.rollout.temperature;
  if (!recipe.rollout.system_prompt.empty()) config.system_prompt = recipe.rollout.system_prompt;
  config.guidance.text_scale = 1.0;
  return config;
}

double peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024.0;
}

std::vector<int64_t> group_ids(std::span<const rollout::Trajectory> trajectories) {
  std::vector<int64_t> ids;
  for (const auto& trajectory : trajectories) ids.push_back(trajectory.prompt_index);
  return ids;
}

std::vector<std::string> prompt_ids(std::span<const rollout::Trajectory> trajectories) {
  std::vector<std::string> ids;
  for (const auto& trajectory : trajectories) {
    const std::string& id = trajectory.sample.id;  // <prompt id>/<sample index>
    ids.push_back(id.substr(0, id.rfind('/')));
  }
  return ids;
}

std::vector<reward::TermConfig> eval_rewards(const Recipe& recipe) {
  return recipe.eval.rewards.empty() ? default_eval_rewards() : recipe.eval.rewards;
}

void mean_and_std(const std::vector<double>& values, const std::string& name, std::map<std::string, double>& out) {
  if (values.empty()) return;
  double mean = 0, square = 0;
  for (const double v : values) mean += v / static_cast<double>(values.size());
  for (const double v : values) square += (v - mean) * (v - mean) / static_cast<double>(values.size());
  out[name + "/mean"] = mean;
  out[name + "/std"] = std::sqrt(square);
}

void reward_metrics(const reward::ScoreTable& scores, const grpo::Advantages& advantages,
                    std::map<std::string, double>& out) {
  std::vector<double> rewards;
  for (const auto& reward : advantages.rewards) {
    if (reward) rewards.push_back(*reward);
  }
  mean_and_std(rewards, "reward", out);
  std::map<std::string, std::pair<double, double>> sums;  // name -> sum, count
  for (const auto& row : scores.scores) {
    for (size_t k = 0; k < scores.terms.size(); ++k) {
      auto add = [&](const std::string& name, double value) {
        sums["reward/" + name].first += value;
        sums["reward/" + name].second += 1;
      };
      if (row[k].value) add(scores.terms[k], *row[k].value);
      for (const auto& [part, value] : row[k].parts) add(scores.terms[k] + "_" + part, value);
    }
  }
  for (const auto& [name, sum] : sums) out[name] = sum.first / sum.second;
  out["reward/dropped"] = static_cast<double>(advantages.num_dropped);
  out["advantage/zero_std_ratio"] = advantages.zero_std_ratio();
}

/// Texts of one round: an episode's n-th text.
struct TextCounts {
  double texts = 0, tokens = 0, cut = 0, entropy = 0, scored_tokens = 0;
};

void rollout_metrics(std::span<const rollout::Trajectory> trajectories, double seconds,
                     std::map<std::string, double>& out) {
  std::vector<TextCounts> rounds;
  double tokens = 0, images = 0;
  for (const auto& trajectory : trajectories) {
    size_t round = 0;
    for (const auto& segment : trajectory.segments) {
      const auto* text = std::get_if<rollout::TextSegment>(&segment);
      if (!text) {
        images += 1;
        continue;
      }
      if (rounds.size() <= round) rounds.resize(round + 1);
      TextCounts& counts = rounds[round++];
      counts.texts += 1;
      counts.tokens += static_cast<double>(text->ids.size());
      counts.cut += text->ended ? 0 : 1;
      counts.entropy += text->entropy.sum().item<double>();
      counts.scored_tokens += static_cast<double>(text->entropy.numel());
      tokens += static_cast<double>(text->ids.size());
    }
  }
  for (size_t round = 0; round < rounds.size(); ++round) {
    const TextCounts& counts = rounds[round];
    const std::string prefix = round == 0 ? "" : fmt::format("round_{}/", round);
    out[prefix + "text/length"] = counts.tokens / counts.texts;
    out[prefix + "text/truncated_ratio"] = counts.cut / counts.texts;
    out[prefix + "text/entropy"] = counts.entropy / std::max(counts.scored_tokens, 1.0);
  }
  out["throughput/rollout_tokens_per_s"] = tokens / seconds;
  out["throughput/rollout_images_per_s"] = images / seconds;
}

/// The run's moving parts and where it stands.
class Trainer {
 public:
  Trainer(const Recipe& recipe, bool resume)
      : recipe_(recipe),
        prompts_(data::read_prompt_file(recipe.data.prompts)),
        rewarder_(build_rewarder(recipe.reward)),
        policies_(build_policies(recipe)),
        policy_(*policies_.policy),
        generation_(generation_of(recipe)),
        engine_(policy_, recipe.rollout, static_cast<uint64_t>(recipe.run.seed), generation_.system_prompt),
        sampler_(prompts_, static_cast<uint64_t>(recipe.run.seed), recipe.grpo.prompts_per_step),
        trained_(trained_parameters(policy_)),
        optimizer_(recipe.optim, trained_),
        clip_(recipe.optim),
        ema_(recipe.optim.ema, trained_),
        alarms_(recipe.monitor.alarms),
        watched_(data::spread_over(prompts_, recipe.monitor.alarms.prompts)) {
    rewarder_.check_prompts(prompts_, recipe.data.prompts);
    for (const data::Prompt& prompt : prompts_) engine_.check_length(prompt);
    if (std::ranges::find(recipe.rollout.program, "image") != recipe.rollout.program.end()) {
      policy_.grid_for(recipe.rollout.image_size);
    }
    if (!recipe.eval.prompts.empty()) check_eval_prompts(recipe.eval.prompts, eval_rewards(recipe));
    if (resume) require_same_recipe(recipe, fs::path(recipe.run_dir()) / "recipe.toml");
    folder_.emplace(monitor::RunFolder::open(recipe.run_dir(), resume));
    io::write_file_atomic(folder_->recipe_file(), recipe::to_toml(recipe));
    store_.emplace(folder_->checkpoints(), recipe.checkpoint);
    if (resume) {
      restore();
      drop_old_end();
    }
    monitor_.emplace(monitor::Monitor::Options{.run_dir = folder_->path(),
                                               .config = recipe.monitor,
                                               .num_steps = recipe.run.num_steps,
                                               .resume_step = resume ? step_ : -1});
    if (resume) monitor_->note(fmt::format("resumed at step {}", step_));
  }

  ExitCode run() {
    signals::install();
    monitor_->note(describe_step(recipe_, policy_, policy::num_tokens(engine_.prefix(prompts_.front()))));
    evaluate_as("before", 1.0);
    if (recipe_.eval.guidance > 1) evaluate_as("before_guided", recipe_.eval.guidance);
    if (signals::stop_requested()) return interrupted();
    for (; step_ < recipe_.run.num_steps; ++step_) {
      if (recipe_.eval.every > 0 && step_ > 0 && step_ % recipe_.eval.every == 0) {
        evaluate_as(monitor::step_name(step_), 1.0);
        if (recipe_.eval.keep_best && !signals::stop_requested()) keep_best(monitor::step_name(step_));
      }
      if (signals::stop_requested() || !train_step()) return interrupted();
      const int64_t done = step_ + 1;
      if (alarm_) {
        store_->save(snapshot(done));
        monitor_->finish();
        throw RuntimeFailure("{} (monitor.alarms.action = stop; --resume goes on from step {})",
                             monitor::describe(*alarm_), done);
      }
      if (recipe_.checkpoint.every > 0 && done % recipe_.checkpoint.every == 0 && done < recipe_.run.num_steps) {
        monitor_->phase("save");
        store_->save(snapshot(done));
      }
    }
    store_->save(snapshot(step_));
    return finish();
  }

 private:
  /// One turn of the loop. False: a signal came before the update; the step is dropped.
  bool train_step() {
    std::map<std::string, double> values;
    Stopwatch total, phase;
    auto lap = [&](const char* name) { values[std::string("time/") + name] = phase.restart(); };
    monitor_->phase("rollout");
    fault::point("rollout.begin");
    const data::PromptBatch batch = sampler_.batch(step_);
    std::vector<rollout::Trajectory> trajectories = roll(batch.prompts, 0);  // rewards judge the groups as they come
    fault::point("rollout.end");
    if (signals::stop_requested()) return false;
    rollout_metrics(trajectories, phase.seconds(), values);
    lap("rollout");

    monitor_->phase("reward");
    reward::ScoreTable scores = rewarder_.collect();
    if (signals::stop_requested()) return false;  // a judge may have been cut short
    fault::point("advantage");
    grpo::Advantages advantages = advantages_of(scores, trajectories);
    if (recipe_.grpo.advantage.zero_std == grpo::ZeroStd::resample) {
      for (int64_t draw = 0; draw < recipe_.grpo.advantage.max_resamples && !advantages.zero_std_group_ids.empty();
           ++draw) {
        resample(draw, advantages, trajectories, scores);
        if (signals::stop_requested()) return false;
        advantages = advantages_of(scores, trajectories);
      }
    }
    tell_failures(scores, trajectories);
    refuse_too_many_dropped(advantages, trajectories.size());
    statistics_ = advantages.statistics;
    reward_metrics(scores, advantages, values);
    lap("reward");

    if (recipe_.monitor.alarms.enabled && step_ % recipe_.monitor.alarms.every == 0) {
      watch(values);
      lap("watch");
    }
    monitor_->phase("update");
    const grpo::UpdateSetup setup{.policy = policy_,
                                  .reference = policies_.reference.get(),
                                  .optimizer = optimizer_,
                                  .clip = clip_,
                                  .config = recipe_.grpo,
                                  .rollout = recipe_.rollout};
    if (!noise_told_) tell_noise(grpo::measure_log_prob_noise(setup, trajectories));
    const double lr_factor = optim::lr_factor(recipe_.optim, step_, recipe_.run.num_steps);
    values.merge(grpo::update(setup, trajectories, advantages, lr_factor));
    if (recipe_.optim.ema.enabled) ema_.update(optimizer_.masters());
    lap("update");
    values["optim/lr"] = recipe_.optim.lr * lr_factor;
    values["time/step"] = total.seconds();
    double tokens = 0;
    for (const auto& trajectory : trajectories) {
      for (const auto& segment : trajectory.sample.segments) tokens += static_cast<double>(segment.num_tokens);
    }
    values["throughput/tokens_per_s"] = tokens / total.seconds();
    values["throughput/images_per_s"] = static_cast<double>(trajectories.size()) / total.seconds();
    values["memory/peak_bytes"] = peak_bytes();
    if (recipe_.eval.every > 0) values.merge(std::exchange(held_out_, {}));
    monitor_->record({.step = step_, .values = values});
    if (recipe_.monitor.sample_every > 0 && step_ % recipe_.monitor.sample_every == 0) {
      write_samples(trajectories, scores, advantages);
    }
    return true;
  }

  std::vector<rollout::Trajectory> roll(std::span<const data::Prompt> prompts, int64_t first_sample) {
    rollout::RolloutRequest request = request_for(prompts, recipe_.grpo.group_size);
    request.first_sample = first_sample;
    request.step = static_cast<uint64_t>(step_) + 1;
    request.on_group = [this](int64_t p, std::vector<data::Sample> group) {
      rewarder_.submit(static_cast<size_t>(p * recipe_.grpo.group_size), std::move(group));
    };
    return engine_.rollout(request);
  }

  rollout::RolloutRequest request_for(std::span<const data::Prompt> prompts, int64_t group_size) const {
    rollout::RolloutRequest request{.prompts = prompts,
                                    .keys = {},
                                    .group_size = group_size,
                                    .guidance = {.text_scale = recipe_.rollout.train_guidance},
                                    .forced_text = {}};
    // A prompt may come twice in a step; its place keeps the streams apart.
    for (size_t p = 0; p < prompts.size(); ++p) request.keys.push_back(p);
    return request;
  }

  grpo::Advantages advantages_of(const reward::ScoreTable& scores, std::span<const rollout::Trajectory> trajectories) {
    return grpo::compute_advantages(recipe_.grpo.advantage, scores, group_ids(trajectories), recipe_.reward.on_error,
                                    recipe_.reward.terms, prompt_ids(trajectories), statistics_);
  }

  /// Groups without spread are replaced by those of other prompts, from further down the prompt order (DAPO's dynamic
  /// sampling, arXiv 2503.14476); what still has none after max_resamples draws leaves the batch.
  void resample(int64_t draw, const grpo::Advantages& advantages, std::vector<rollout::Trajectory>& trajectories,
                reward::ScoreTable& scores) {
    constexpr int64_t kFarAway = int64_t{1} << 40;  // steps that no run reaches
    const data::PromptBatch spare = sampler_.batch(kFarAway + step_ * recipe_.grpo.advantage.max_resamples + draw);
    const auto count = std::min(spare.prompts.size(), advantages.zero_std_group_ids.size());
    const int64_t first_sample = (draw + 1) * recipe_.grpo.group_size;
    auto fresh = roll(std::span(spare.prompts).first(count), first_sample);
    reward::ScoreTable fresh_scores = rewarder_.collect();
    for (size_t i = 0; i < fresh.size(); ++i) {
      const int64_t group = advantages.zero_std_group_ids[fresh[i].prompt_index];
      const auto slot = static_cast<size_t>(group * recipe_.grpo.group_size + fresh[i].sample_index - first_sample);
      fresh[i].prompt_index = group;
      fresh[i].sample.group = group;
      trajectories[slot] = std::move(fresh[i]);
      scores.scores[slot] = std::move(fresh_scores.scores[i]);
    }
  }

  void refuse_too_many_dropped(const grpo::Advantages& advantages, size_t samples) const {
    if (static_cast<double>(advantages.num_dropped) <= recipe_.reward.max_dropped * static_cast<double>(samples))
      return;
    throw RuntimeFailure("step {}: {} of {} samples have no reward, more than reward.max_dropped = {} allows", step_,
                         advantages.num_dropped, samples, recipe_.reward.max_dropped);
  }

  /// A line in the step's file of failures for each score that a term did not give, and a note with the first.
  void tell_failures(const reward::ScoreTable& scores, std::span<const rollout::Trajectory> trajectories) {
    std::vector<monitor::Failure> failures;
    for (size_t i = 0; i < trajectories.size(); ++i) {
      for (size_t k = 0; k < scores.terms.size(); ++k) {
        const reward::Score& score = scores.scores[i][k];
        if (score.value) continue;
        failures.push_back({.step = step_,
                            .reward = scores.terms[k],
                            .sample = trajectories[i].sample.id,
                            .prompt = trajectories[i].sample.prompt,
                            .reason = score.reason});
      }
    }
    if (failures.empty()) return;
    const fs::path file = folder_->failures_file(step_);
    monitor::write_failures(file, failures);
    monitor_->note(fmt::format("{} scores are missing; the first: reward '{}', sample {}: {} (all in {})",
                               failures.size(), failures.front().reward, failures.front().sample,
                               failures.front().reason, file.string()));
  }

  /// What the policy makes of the watched prompts, whatever that is worth: the same noise at every look.
  void watch(std::map<std::string, double>& values) {
    monitor_->phase("watch");
    rollout::RolloutRequest request = request_for(watched_, recipe_.monitor.alarms.samples);
    request.step = 0;  // training's steps are keyed from 1
    request.stochastic = false;
    std::vector<data::Sample> samples;
    for (auto& trajectory : engine_.rollout(request)) samples.push_back(std::move(trajectory.sample));
    monitor::Alarms::Observation seen = alarms_.observe(step_, samples);
    values.merge(seen.metrics);
    for (const monitor::Alarm& alarm : seen.raised) monitor_->note(monitor::describe(alarm));
    if (recipe_.monitor.alarms.action == monitor::AlarmAction::stop && !seen.raised.empty())
      alarm_ = seen.raised.front();
  }

  void tell_noise(const grpo::LogProbNoise& noise) {
    noise_told_ = true;
    monitor_->note(fmt::format(
        "log-prob noise between rollout and update: text {:.1e} (clip {} / {}), image {:.1e} (clip {})", noise.text,
        recipe_.grpo.text.clip_low, recipe_.grpo.text.clip_high, noise.image, recipe_.grpo.image.clip_range));
    auto warn = [&](double range, double floor, const char* key) {
      if (range < floor) {
        monitor_->note(fmt::format("warning: {} = {} is below the measured noise {:.1e}: clipping acts on noise", key,
                                   range, floor));
      }
    };
    if (recipe_.grpo.text.weight > 0) warn(recipe_.grpo.text.clip_low, noise.text, "grpo.text.clip_low");
    if (recipe_.grpo.image.weight > 0) warn(recipe_.grpo.image.clip_range, noise.image, "grpo.image.clip_range");
  }

  void write_samples(std::span<const rollout::Trajectory> trajectories, const reward::ScoreTable& scores,
                     const grpo::Advantages& advantages) {
    // One sample of each group in turn, so that the grid shows different prompts.
    std::vector<monitor::SampleRow> rows;
    std::set<std::string> ids;
    for (int64_t g = 0; g < recipe_.grpo.group_size; ++g) {
      for (int64_t p = 0; p < recipe_.grpo.prompts_per_step; ++p) {
        const auto i = static_cast<size_t>(p * recipe_.grpo.group_size + g);
        if (static_cast<int64_t>(rows.size()) >= recipe_.monitor.num_samples || i >= trajectories.size()) continue;
        monitor::SampleRow row = sample_row(trajectories[i].sample, scores.terms, scores.scores[i]);
        row.reward = advantages.rewards[i];
        row.advantage = advantages.text[i];
        // A prompt may come twice in a step: its second group is told apart by its place.
        if (!ids.insert(row.sample.id).second) row.sample.id += fmt::format("@{}", p);
        rows.push_back(std::move(row));
      }
    }
    monitor::write_samples(folder_->samples(step_), rows);
  }

  /// Scores the policy (its averaged weights where EMA is on) on eval.prompts, unless that stands in the folder.
  void evaluate_as(const std::string& name, double guidance) {
    if (recipe_.eval.prompts.empty() || fs::exists(folder_->eval_file(name))) return;
    monitor_->phase("eval");
    std::optional<optim::EmaScope> averaged;
    if (recipe_.optim.ema.enabled && step_ > 0) averaged.emplace(ema_, trained_);
    EvalOptions options{.model = recipe_.policy.model,
                        .prompts = recipe_.eval.prompts,
                        .rewards = eval_rewards(recipe_),
                        .generation = generation_,
                        .seed = 0,
                        .num_samples = recipe_.eval.samples,
                        .max_prompts = recipe_.eval.max_prompts,
                        .true_plan = false,
                        .keep_samples = name == "before" || name == "after" ? 64 : 0};
    options.generation.guidance.text_scale = guidance;
    const EvalResult result = evaluate(policy_, options);
    if (!result.complete) return;
    monitor_->note(fmt::format("eval {}: strict {:.3f}, soft {:.3f} on {} prompts x {} ({})", name,
                               result.overall.strict, result.overall.soft, result.overall.count, options.num_samples,
                               human_seconds(result.seconds)));
    io::write_file_atomic(folder_->eval_file(name), to_json(options, result));
    if (guidance == 1) {
      held_out_ = {{"eval/strict", result.overall.strict}, {"eval/soft", result.overall.soft}};
      for (const auto& [term, mean] : result.rewards) held_out_["eval/" + term] = mean;
    }
    if (!result.samples.empty()) monitor::write_samples(folder_->samples(name), result.samples);
  }

  checkpoint::Snapshot snapshot(int64_t steps_done) const {
    checkpoint::Snapshot state;
    state.step = steps_done;
    state.recipe_toml = recipe::to_toml(recipe_);
    state.parts["policy"] = trained_;
    state.parts["optimizer"] = optimizer_.state();
    state.parts["ema"] = ema_.averages();
    if (NamedTensors statistics = statistics_.state(); !statistics.empty()) {
      state.parts["reward_statistics"] = std::move(statistics);
    }
    state.counters = {{"ema_updates", std::to_string(ema_.num_updates())},
                      {"skipped", std::to_string(clip_.skipped())},
                      {"skipped_in_a_row", std::to_string(clip_.skipped_in_a_row())}};
    state.counters.merge(alarms_.state());
    return state;
  }

  void restore() {
    const auto loaded = store_->newest();
    if (!loaded) return;
    const at::NoGradGuard no_grad;
    const std::string where = loaded->folder.string();
    optim::assign(trained_, loaded->tensors("policy"), where + ": policy");
    optimizer_.load_state(loaded->tensors("optimizer"), where + ": optimizer");
    ema_.load_state(loaded->tensors("ema"), loaded->counter("ema_updates"), where + ": ema");
    if (loaded->parts.contains("reward_statistics")) {
      statistics_.load_state(loaded->tensors("reward_statistics"), where + ": reward_statistics");
    }
    alarms_.restore(loaded->counters, where);
    clip_.restore(loaded->counter("skipped"), loaded->counter("skipped_in_a_row"));
    step_ = loaded->step;
  }

  ExitCode interrupted() {
    monitor_->phase("save");
    store_->save(snapshot(step_));
    monitor_->note(fmt::format("{}: stopped after step {}; --resume goes on from here", signals::stop_signal(), step_));
    monitor_->finish();
    return ExitCode::interrupted;
  }

  ExitCode finish() {
    evaluate_as("after", 1.0);
    if (recipe_.eval.guidance > 1) evaluate_as("after_guided", recipe_.eval.guidance);
    if (signals::stop_requested()) return interrupted();
    if (!fs::exists(folder_->final_model())) export_to(folder_->final_model());
    monitor_->finish();
    if (recipe_.monitor.report) monitor::write_report(folder_->path());
    return ExitCode::done;
  }

  /// Puts the present weights into best/ if no evaluation before this one scored higher.
  void keep_best(const std::string& name) {
    const double score = score_in(folder_->eval_file(name));
    for (int64_t step = recipe_.eval.every; step < step_; step += recipe_.eval.every) {
      const fs::path earlier = folder_->eval_file(monitor::step_name(step));
      if (fs::exists(earlier) && score_in(earlier) >= score) return;
    }
    const fs::path fresh = folder_->path() / ".best.tmp-fresh";  // gone at the next start, should this process die here
    export_to(fresh);
    io::replace_folder(fresh, folder_->best_model());
    monitor_->note(fmt::format("best score so far: {:.3f}, kept as {}", score, folder_->best_model().string()));
  }

  void export_to(const fs::path& destination) {
    std::optional<optim::EmaScope> averaged;
    if (recipe_.optim.ema.enabled) averaged.emplace(ema_, trained_);
    checkpoint::ExportOptions options;
    options.dtype = recipe_.policy.dtype == policy::DtypeChoice::float32 ? at::kFloat : at::kBFloat16;
    options.metadata = {{"unigrpo_run", recipe_.run.name}, {"unigrpo_step", std::to_string(step_)}};
    options.generation_config = to_json(generation_, recipe_.policy.model);
    checkpoint::export_model(recipe_.policy.model, destination, policy_.merged(), options);
  }

  /// What an earlier, shorter end of this run left is out of date once the run goes on.
  void drop_old_end() {
    if (step_ >= recipe_.run.num_steps) return;
    fs::remove_all(folder_->final_model());
    for (const char* name : {"after", "after_guided"}) {
      fs::remove(folder_->eval_file(name));
      fs::remove_all(folder_->samples(name));
    }
  }

  const Recipe recipe_;
  std::vector<data::Prompt> prompts_;
  reward::Rewarder rewarder_;
  Policies policies_;
  policy::UnifiedPolicy& policy_;
  GenerationConfig generation_;
  rollout::RolloutEngine engine_;
  data::PromptSampler sampler_;
  NamedTensors trained_;
  optim::AdamW optimizer_;
  optim::GradClip clip_;
  optim::Ema ema_;
  monitor::Alarms alarms_;
  const std::vector<data::Prompt> watched_;
  grpo::RunningStatistics statistics_;
  std::optional<monitor::Alarm> alarm_;     // one that stops the run
  std::map<std::string, double> held_out_;  // of an evaluation before the step under way
  int64_t step_ = 0;                        // finished steps
  bool noise_told_ = false;
  std::optional<monitor::RunFolder> folder_;
  std::optional<checkpoint::CheckpointStore> store_;
  std::optional<monitor::Monitor> monitor_;
};

}  // namespace

ExitCode run_training(const Recipe& recipe, bool resume) {
  keep_freed_memory();
  if (recipe.run.threads > 0) at::set_num_threads(static_cast<int>(recipe.run.threads));
  Trainer trainer(recipe, resume);
  return trainer.run();
}

}  // namespace unigrpo::train
