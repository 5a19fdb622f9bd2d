#include "train/resume.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "recipe/parse.h"

namespace unigrpo::train {

namespace fs = std::filesystem;

namespace {

bool may_change(const std::string& key) {
  return key == "run.num_steps" || key == "run.threads" || key.starts_with("monitor.") ||
         key.starts_with("checkpoint.");
}

}  // namespace

void require_same_recipe(const recipe::Recipe& recipe, const fs::path& saved, recipe::Command command) {
  if (!fs::exists(saved)) return;
  std::vector<std::string> keys;
  for (const auto& key : recipe::differing_keys(recipe, recipe::parse(saved, {}, command))) {
    if (!may_change(key)) keys.push_back(key);
  }
  if (keys.empty()) return;
  throw BadInput("{}: --resume needs the run's own recipe; these keys differ: {}", saved.string(), join(keys, ", "));
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

void drop_old_end(const monitor::RunFolder& folder, const fs::path& output) {
  fs::remove_all(output);
  for (const char* name : {"after", "after_guided"}) {
    fs::remove(folder.eval_file(name));
    fs::remove_all(folder.samples(name));
  }
}

}  // namespace unigrpo::train
