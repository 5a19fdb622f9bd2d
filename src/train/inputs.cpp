#include "train/inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"
#include "base/text.h"
#include "data/prompt_file.h"
#include "io/model_folder.h"
#include "recipe/tasks.h"
#include "runtime/workers.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;

/// Other files of a model folder (a README, results) may change.
bool is_of_a_model(const std::string& name) {
  return std::ranges::find(io::kModelFiles, name) != io::kModelFiles.end() || name == io::kGenerationConfig ||
         name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
}

constexpr std::string_view kImages = "/images";

/// Files by the key of the input that they are, in order; several are one input.
using Files = std::map<std::string, std::vector<fs::path>>;

void add_file(const std::string& key, const fs::path& path, Files& files) {
  std::error_code ignored;  // what cannot be looked at is left to whoever reads it
  if (!path.empty() && fs::is_regular_file(path, ignored)) files[key].push_back(path);
}

/// A prompt file and the images that its rows name, in the order in which they first come.
void add_prompts(const std::string& key, const fs::path& path, Files& files) {
  add_file(key, path, files);
  if (!files.contains(key)) return;
  std::set<std::string> seen;
  const auto add = [&](const std::string& image) {
    if (!image.empty() && seen.insert(image).second) add_file(key + std::string(kImages), image, files);
  };
  for (const data::Prompt& prompt : data::read_prompt_file(path.string())) {
    for (const std::string& image : prompt.images) add(image);
    for (const data::TargetSegment& segment : prompt.target) add(segment.image);
  }
}

Inputs digests_of(const Files& files, const Runtime& runtime) {
  std::vector<const fs::path*> paths;
  for (const auto& [key, list] : files) {
    for (const fs::path& path : list) paths.push_back(&path);
  }
  std::vector<std::string> digests(paths.size());
  run_tasks(num_threads(runtime), static_cast<int64_t>(paths.size()),
            [&](int64_t i, int64_t /*worker*/) { digests[i] = sha256_of_file(*paths[i], runtime.stop); });
  Inputs inputs;
  auto digest = digests.begin();
  for (const auto& [key, list] : files) {
    const auto end = digest + static_cast<std::ptrdiff_t>(list.size());
    inputs[key] = {.path = list.front().string(), .sha256 = *digest};
    if (key.ends_with(kImages)) {
      const std::string prompts = files.at(key.substr(0, key.size() - kImages.size())).front().string();
      inputs[key] = {.path = "images of " + prompts, .sha256 = sha256_hex(join(std::vector(digest, end), " "))};
    }
    digest = end;
  }
  return inputs;
}

/// A folder without weights may be a pair of models, whose halves lie in folders of their own, as the components of a
/// pipeline do.
void add_model(const std::string& key, const fs::path& folder, Files& files) {
  std::vector<fs::path> halves;
  bool has_weights = false;
  std::error_code ignored;
  for (fs::directory_iterator entry(folder, ignored), end; !ignored && entry != end; entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    if (is_of_a_model(name)) add_file(key + "/" + name, entry->path(), files);
    has_weights |= name.ends_with(".safetensors");
    if (fs::exists(entry->path() / "config.json", ignored)) halves.push_back(entry->path());
  }
  if (has_weights && !fs::exists(folder / "model_index.json", ignored)) return;
  for (const fs::path& half : halves) add_model(key + "/" + half.filename().string(), half, files);
}

void add_rewards(const std::string& list, const std::vector<reward::TermConfig>& terms, Files& files) {
  for (size_t i = 0; i < terms.size(); ++i) {
    const std::string element = fmt::format("{}.{}.", list, i);
    if (terms[i].kind == reward::RewardKind::plugin) add_file(element + "path", terms[i].plugin.path, files);
    if (reward::is_network(terms[i].kind)) add_model(element + "model", terms[i].network.model, files);
  }
}

/// As `git` shortens a digest: enough to tell two apart by eye.
std::string shortened(const std::string& sha256) { return sha256.substr(0, 12); }

}  // namespace

Inputs read_model_inputs(const fs::path& model, const Runtime& runtime) {
  Files files;
  add_model("policy.model", model, files);
  return digests_of(files, runtime);
}

Inputs read_inputs(const recipe::Recipe& recipe, const Runtime& runtime) {
  Files files;
  add_model("policy.model", recipe.policy.model, files);
  add_prompts("data.prompts", recipe.data.prompts, files);
  add_file("data.text_features", recipe.data.text_features, files);
  for (const recipe::Task& task : recipe::tasks_of(recipe)) {
    if (!task.is_named()) continue;
    recipe::told_of(recipe, task, "prompts", [&] { add_prompts(task.key + ".prompts", task.prompts, files); });
    add_prompts(task.key + ".eval_prompts", task.eval_prompts, files);
  }
  add_prompts("eval.prompts", recipe.eval.prompts, files);
  add_rewards("rewards", recipe.reward.terms, files);
  add_rewards("eval.rewards", recipe.eval.rewards, files);
  return digests_of(files, runtime);
}

bool is_input(std::string_view key) {
  if (key == "policy.model" || key == "data.prompts" || key == "data.text_features") return true;
  if (key == "eval.prompts") return true;
  if (key.starts_with("tasks.") && key.ends_with("prompts")) return true;
  const bool of_a_reward = key.starts_with("rewards.") || key.starts_with("eval.rewards.");
  return of_a_reward && (key.ends_with(".path") || key.ends_with(".model")) && !key.ends_with(".http.model");
}

void require_same_inputs(const Inputs& now, const std::map<std::string, std::string>& began, const std::string& run_dir,
                         std::string_view prefix) {
  for (const auto& [key, sha256] : began) {
    if (!key.starts_with(prefix)) continue;
    const auto found = now.find(key);
    if (found == now.end()) {
      throw BadInput("{}: the file that the run {} began with is gone (SHA-256 {})", key, run_dir, shortened(sha256));
    }
    const auto& [path, digest] = found->second;
    if (digest == sha256) continue;
    throw BadInput("{}: not {} that the run {} began with ({}: SHA-256 {}, now {})", path,
                   key.ends_with(kImages) ? "those" : "the file", run_dir, key, shortened(sha256), shortened(digest));
  }
  for (const auto& [key, input] : now) {
    if (!key.starts_with(prefix) || began.contains(key) || key.ends_with(kImages)) continue;
    throw BadInput("{}: was not there when the run {} began", input.path, run_dir);
  }
}

State InputDigests::state() const {
  State state;
  for (const auto& [key, input] : inputs_) state.values[key] = input.sha256;
  return state;
}

void InputDigests::require_same_model(const fs::path& model, const Runtime& runtime) const {
  require_same_inputs(read_model_inputs(model, runtime), state().values, run_dir_, "policy.model/");
}

void InputDigests::load_state(const State& state, const std::string& /*where*/) {
  require_same_inputs(inputs_, state.values, run_dir_);
}

}  // namespace unigrpo::train
