#include <fmt/format.h>

#include <map>
#include <set>

#include "base/text.h"
#include "io/atomic_file.h"
#include "io/step_folder.h"
#include "monitor/samples_file.h"
#include "runtime/ranks.h"
#include "train/evaluator.h"
#include "train/hooks/hooks.h"
#include "train/step_metrics.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;

bool is_due(const recipe::Recipe& recipe, int64_t steps_done) {
  return recipe.eval.every > 0 && steps_done > 0 && steps_done % recipe.eval.every == 0;
}

class EvaluationHook : public StepHook {
 public:
  EvaluationHook(const RunContext& run, const Evaluation& evaluation)
      : run_(run), evaluation_(evaluation), config_(run.recipe.eval) {}

  void before_training(Metrics& metrics) override {
    twice("before", 0);
    if (config_.every > 0) add_scores("before", metrics);
  }

  bool after_update(Step& step) override {
    if (!is_due(run_.recipe, step.number())) return true;
    // At the end of the run it is the last evaluation as well.
    const bool is_last = step.number() == run_.recipe.run.num_steps;
    const std::string name = io::step_name(step.number());
    evaluate_as({name, is_last ? "after" : name}, 1.0, step.number());
    return add_scores(name, step.metrics);
  }

  void after_run(int64_t steps_done) override { twice("after", steps_done); }

 private:
  using Names = std::set<std::string>;

  fs::path file_of(const std::string& name) const { return run_.folder.eval_file(evaluation_.file_prefix() + name); }

  void twice(const std::string& name, int64_t steps_done) {
    evaluate_as({name}, 1.0, steps_done);
    if (config_.cfg_scale > 1) evaluate_as({name + "_guided"}, config_.cfg_scale, steps_done);
  }

  /// What stands in the run folder already, from a process that ended since, is taken as it is. Where a stop comes
  /// meanwhile, nothing is written.
  void evaluate_as(Names names, double cfg_scale, int64_t steps_done) {
    std::erase_if(names, [&](const std::string& name) { return fs::exists(file_of(name)); });
    const std::vector<std::string> missing =
        from_root(run_.runtime, std::vector<std::string>(names.begin(), names.end()), "evaluation");
    names = {missing.begin(), missing.end()};
    if (names.empty() || stop_asked(run_.runtime)) return;
    run_.enter(steps_done, "eval");
    const auto scope = steps_done > 0 ? averaged(run_) : std::nullopt;
    const bool keep = names.contains("before") || names.contains("after");
    EvalOptions options{.model = run_.recipe.policy.model,
                        .prompts = evaluation_.prompts,
                        .rewards = evaluation_.evaluator->rewards(),
                        .generation = run_.objective.task_generation(evaluation_.task),
                        .num_samples = config_.samples,
                        .max_prompts = config_.max_prompts,
                        .keep_samples = keep ? 64 : 0,
                        .max_dropped = run_.recipe.reward.max_dropped};
    options.generation.guidance.text_scale = cfg_scale;
    const EvalResult result = evaluation_.evaluator->evaluate(*run_.objective.policy(), options);
    if (!result.complete || !is_root(run_.runtime)) return;
    for (const std::string& name : names) {
      run_.monitor.note(fmt::format("eval {}{}: {} on {} prompts x {} ({})", evaluation_.metric_prefix(), name,
                                    describe(result), result.overall.count, options.num_samples,
                                    human_seconds(result.seconds)));
      const bool has_samples = name == "before" || name == "after";
      if (has_samples) monitor::write_samples(run_.folder.samples(evaluation_.file_prefix() + name), result.samples);
      io::write_file_atomic(file_of(name), to_json(options, result));
    }
  }

  /// From the file, so that a row is the same whether this process evaluated or one before it. False: there is none.
  bool add_scores(const std::string& name, Metrics& metrics) const {
    const fs::path file = file_of(name);
    std::vector<Metrics> scores;  // one, or none
    if (is_root(run_.runtime) && fs::exists(file)) scores.push_back(scores_in(file).values);
    scores = from_root(run_.runtime, scores, "evaluation");
    if (scores.empty()) return false;
    for (const auto& [score, value] : scores.front()) {
      metrics["eval/" + evaluation_.metric_prefix() + score] = value;
    }
    return true;
  }

  RunContext run_;
  const Evaluation& evaluation_;
  const recipe::EvalConfig& config_;
};

class KeepBestHook : public StepHook {
 public:
  explicit KeepBestHook(const RunContext& run) : run_(run) {}

  bool after_update(Step& step) override {
    if (!is_due(run_.recipe, step.number())) return true;
    bool best = false;
    on_root(run_.runtime, step.number(), "best model", [&] { best = is_best(step); });
    if (!from_root(run_.runtime, best, "best model")) return true;
    const ShownWeights shown(run_);
    on_root(run_.runtime, step.number(), "best model", [&] { keep(step); });
    return true;
  }

 private:
  std::optional<double> score_after(int64_t step) const {
    const fs::path file = run_.folder.eval_file(io::step_name(step));
    return fs::exists(file) ? scores_in(file).score : std::nullopt;
  }

  bool is_best(const Step& step) {
    if (!fs::exists(run_.folder.eval_file(io::step_name(step.number())))) return false;
    const std::optional<double> score = score_after(step.number());
    if (!score) {
      run_.monitor.note(
          fmt::format("warning: the evaluation after step {} has no score: it cannot be the best one "
                      "(reward.max_dropped = {})",
                      step.number(), run_.recipe.reward.max_dropped));
      return false;
    }
    const int64_t every = run_.recipe.eval.every;
    for (int64_t earlier = every; earlier < step.number(); earlier += every) {
      if (score_after(earlier) >= score) return false;  // none is less than any
    }
    return true;
  }

  void keep(const Step& step) {
    const fs::path fresh = run_.folder.path() / ".best.tmp-fresh";  // gone at the next start, should this process die
    run_.objective.write_model(fresh, step.number());
    io::replace_folder(fresh, run_.folder.best_model());
    run_.monitor.note(fmt::format("best score so far: {:.3f}, kept as {}", *score_after(step.number()),
                                  run_.folder.best_model().string()));
  }

  RunContext run_;
};

}  // namespace

std::unique_ptr<StepHook> make_evaluation_hook(const RunContext& run, const Evaluation& evaluation) {
  return std::make_unique<EvaluationHook>(run, evaluation);
}
std::unique_ptr<StepHook> make_keep_best_hook(const RunContext& run) { return std::make_unique<KeepBestHook>(run); }

}  // namespace unigrpo::train
