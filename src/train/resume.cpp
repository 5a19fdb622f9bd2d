#include "train/resume.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "recipe/parse.h"
#include "train/evaluator.h"

namespace unigrpo::train {

namespace fs = std::filesystem;

namespace {

// With `paths`: files may lie elsewhere, since their content is compared.
bool may_change(const std::string& key, bool paths) {
  return key == "run.num_steps" || key == "run.threads" || key == "run.name" || key == "run.dir" ||
         key == "policy.device" || key == "rollout.graphs" || key == "optim.schedule_steps" ||
         key.starts_with("monitor.") || key.starts_with("checkpoint.") || key.starts_with("parallel.") ||
         (paths && is_input(key));
}

}  // namespace

void require_same_run(const recipe::Recipe& recipe, recipe::Command command, const Inputs& inputs) {
  const fs::path run_dir = recipe.run_dir(), saved = run_dir / "recipe.toml";
  if (!fs::exists(saved)) return;
  const auto record = monitor::read_run_record(run_dir / "run.json");
  std::vector<std::string> keys;
  for (const auto& key : recipe::differing_keys(recipe, recipe::parse(saved, {}, command))) {
    if (!may_change(key, record.has_value())) keys.push_back(key);
  }
  if (!keys.empty()) {
    throw BadInput(
        "{}: --resume needs the run's own recipe; these keys differ: {}. `{}` goes on; it may change run.num_steps, "
        "run.threads, run.name, run.dir, policy.device, rollout.graphs, optim.schedule_steps, [checkpoint], "
        "[parallel], [monitor] and "
        "the paths of files",
        saved.string(), join(keys, ", "), resume_command(run_dir, command));
  }
  if (!record) return;  // an earlier start ended before it had written one
  std::map<std::string, std::string> began;
  for (const auto& [key, input] : record->inputs) began[key] = input.sha256;
  require_same_inputs(inputs, began, run_dir.string());
}

std::string resume_command(const fs::path& run_dir, recipe::Command command) {
  return fmt::format("unigrpo {} {} --resume", command == recipe::Command::sft ? "sft" : "train",
                     (run_dir / "recipe.toml").string());
}

std::string record_launch(const monitor::RunFolder& folder, const recipe::Recipe& recipe, monitor::Launch launch,
                          const Inputs& inputs, int64_t steps_done) {
  io::write_file_atomic(folder.recipe_file(), recipe::to_toml(recipe));
  launch.step = steps_done;
  std::string changes;
  auto record = monitor::read_run_record(folder.record_file());
  if (record) {
    changes = monitor::changed_build(record->resumed.empty() ? record->first : record->resumed.back(), launch);
    record->resumed.push_back(launch);
  } else {
    record = monitor::RunRecord{.first = launch};
  }
  record->inputs = inputs;
  monitor::write_run_record(folder.record_file(), *record);
  return changes;
}

void check_output(const fs::path& output, const fs::path& run_dir, bool resume) {
  const fs::path inner = fs::weakly_canonical(run_dir), outer = fs::weakly_canonical(output);
  if (std::ranges::mismatch(outer, inner).in1 == outer.end()) {
    throw BadInput("sft.output: {} is the run folder {} or holds it; give another folder", output.string(),
                   run_dir.string());
  }
  if (resume && fs::exists(run_dir / "recipe.toml")) return;
  if (!fs::exists(output) || (fs::is_directory(output) && fs::is_empty(output))) return;
  throw BadInput("sft.output: {} exists and is not empty; remove it or give another folder", output.string());
}

void drop_old_end(const monitor::RunFolder& folder, const fs::path& output, const recipe::Recipe& recipe) {
  fs::remove_all(output);
  std::vector<std::string> prefixes = {""};
  for (const recipe::TaskConfig& task : recipe.tasks) prefixes.push_back(Evaluation{.task = task.name}.file_prefix());
  for (const std::string& prefix : prefixes) {
    for (const char* name : {"after", "after_guided"}) {
      fs::remove(folder.eval_file(prefix + name));
      fs::remove_all(folder.samples(prefix + name));
    }
  }
}

}  // namespace unigrpo::train
