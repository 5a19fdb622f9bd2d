#include <fmt/format.h>

#include <map>

#include "base/text.h"
#include "io/atomic_file.h"
#include "io/step_folder.h"
#include "monitor/samples_file.h"
#include "train/evaluator.h"
#include "train/hooks/hooks.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;

bool is_due(const recipe::Recipe& recipe, int64_t step) {
  return recipe.eval.every > 0 && step > 0 && step % recipe.eval.every == 0;
}

class EvaluationHook : public StepHook {
 public:
  explicit EvaluationHook(const RunContext& run) : run_(run), config_(run.recipe.eval) {}

  void before_run(int64_t steps_done) override { twice("before", steps_done); }

  void before_step(Step& step) override {
    if (is_due(run_.recipe, step.index)) evaluate_as(io::step_name(step.index), 1.0, step.index);
    if (config_.every > 0) step.metrics.merge(std::exchange(scores_, {}));
  }

  void after_run(int64_t steps_done) override { twice("after", steps_done); }

 private:
  void twice(const std::string& name, int64_t steps_done) {
    evaluate_as(name, 1.0, steps_done);
    if (config_.cfg_scale > 1) evaluate_as(name + "_guided", config_.cfg_scale, steps_done);
  }

  /// Where a stop comes meanwhile, nothing is written.
  void evaluate_as(const std::string& name, double cfg_scale, int64_t steps_done) {
    if (run_.runtime.stop.requested() || fs::exists(run_.folder.eval_file(name))) return;
    run_.monitor.phase("eval");
    const auto scope = steps_done > 0 ? averaged(run_) : std::nullopt;
    EvalOptions options{.model = run_.recipe.policy.model,
                        .prompts = config_.prompts,
                        .rewards = eval_rewards(config_),
                        .generation = run_.objective.generation(),
                        .num_samples = config_.samples,
                        .max_prompts = config_.max_prompts,
                        .keep_samples = name == "before" || name == "after" ? 64 : 0};
    options.generation.guidance.text_scale = cfg_scale;
    const EvalResult result = evaluate(*run_.objective.policy(), options, run_.runtime);
    if (!result.complete) return;
    run_.monitor.note(fmt::format("eval {}: strict {:.3f}, soft {:.3f} on {} prompts x {} ({})", name,
                                  result.overall.strict, result.overall.soft, result.overall.count, options.num_samples,
                                  human_seconds(result.seconds)));
    io::write_file_atomic(run_.folder.eval_file(name), to_json(options, result));
    if (cfg_scale == 1) {
      scores_ = {{"eval/strict", result.overall.strict}, {"eval/soft", result.overall.soft}};
      for (const auto& [term, mean] : result.rewards) scores_["eval/" + term] = mean;
    }
    if (!result.samples.empty()) monitor::write_samples(run_.folder.samples(name), result.samples);
  }

  RunContext run_;
  const recipe::EvalConfig& config_;
  std::map<std::string, double> scores_;  // for the row of the next step
};

class KeepBestHook : public StepHook {
 public:
  explicit KeepBestHook(const RunContext& run) : run_(run) {}

  void before_step(Step& step) override {
    const fs::path file = run_.folder.eval_file(io::step_name(step.index));
    if (!is_due(run_.recipe, step.index) || run_.runtime.stop.requested() || !fs::exists(file)) return;
    const double score = score_in(file);
    const int64_t every = run_.recipe.eval.every;
    for (int64_t earlier = every; earlier < step.index; earlier += every) {
      const fs::path other = run_.folder.eval_file(io::step_name(earlier));
      if (fs::exists(other) && score_in(other) >= score) return;
    }
    const fs::path fresh = run_.folder.path() / ".best.tmp-fresh";  // gone at the next start, should this process die
    {
      const auto scope = averaged(run_);
      run_.objective.write_model(fresh, step.index);
    }
    io::replace_folder(fresh, run_.folder.best_model());
    run_.monitor.note(fmt::format("best score so far: {:.3f}, kept as {}", score, run_.folder.best_model().string()));
  }

 private:
  RunContext run_;
};

}  // namespace

std::unique_ptr<StepHook> make_evaluation_hook(const RunContext& run) { return std::make_unique<EvaluationHook>(run); }
std::unique_ptr<StepHook> make_keep_best_hook(const RunContext& run) { return std::make_unique<KeepBestHook>(run); }

}  // namespace unigrpo::train
