#include "train/inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "io/mapped_file.h"
#include "io/model_folder.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;

/// Other files of a model folder (a README, results) may change.
bool is_of_a_model(const std::string& name) {
  return std::ranges::find(io::kModelFiles, name) != io::kModelFiles.end() || name == io::kGenerationConfig ||
         name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
}

void add_file(const std::string& key, const fs::path& path, Inputs& inputs) {
  std::error_code ignored;  // what cannot be looked at is left to whoever reads it
  if (path.empty() || !fs::is_regular_file(path, ignored)) return;
  inputs[key] = {.path = path.string(), .sha256 = io::sha256_of_file(path)};
}

/// A folder without weights may be a pair of models, whose halves lie in folders of their own.
void add_model(const std::string& key, const fs::path& folder, Inputs& inputs) {
  std::vector<fs::path> halves;
  bool has_weights = false;
  std::error_code ignored;
  for (fs::directory_iterator entry(folder, ignored), end; !ignored && entry != end; entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    if (is_of_a_model(name)) add_file(key + "/" + name, entry->path(), inputs);
    has_weights |= name.ends_with(".safetensors");
    if (fs::exists(entry->path() / "config.json", ignored)) halves.push_back(entry->path());
  }
  if (has_weights) return;
  for (const fs::path& half : halves) add_model(key + "/" + half.filename().string(), half, inputs);
}

void add_rewards(const std::string& list, const std::vector<reward::TermConfig>& terms, Inputs& inputs) {
  for (size_t i = 0; i < terms.size(); ++i) {
    const std::string element = fmt::format("{}.{}.", list, i);
    if (terms[i].kind == reward::RewardKind::plugin) add_file(element + "path", terms[i].plugin.path, inputs);
    if (reward::is_network(terms[i].kind)) add_model(element + "model", terms[i].network.model, inputs);
  }
}

/// As `git` shortens a digest: enough to tell two apart by eye.
std::string shortened(const std::string& sha256) { return sha256.substr(0, 12); }

}  // namespace

Inputs read_model_inputs(const fs::path& model) {
  Inputs inputs;
  add_model("policy.model", model, inputs);
  return inputs;
}

Inputs read_inputs(const recipe::Recipe& recipe) {
  Inputs inputs = read_model_inputs(recipe.policy.model);
  add_file("data.prompts", recipe.data.prompts, inputs);
  add_file("eval.prompts", recipe.eval.prompts, inputs);
  add_rewards("rewards", recipe.reward.terms, inputs);
  add_rewards("eval.rewards", recipe.eval.rewards, inputs);
  return inputs;
}

bool is_input(std::string_view key) {
  if (key == "policy.model" || key == "data.prompts" || key == "eval.prompts") return true;
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
    throw BadInput("{}: not the file that the run {} began with ({}: SHA-256 {}, now {})", path, run_dir, key,
                   shortened(sha256), shortened(digest));
  }
  for (const auto& [key, input] : now) {
    if (!key.starts_with(prefix) || began.contains(key)) continue;
    throw BadInput("{}: was not there when the run {} began", input.path, run_dir);
  }
}

State InputDigests::state() const {
  State state;
  for (const auto& [key, input] : inputs_) state.values[key] = input.sha256;
  return state;
}

void InputDigests::require_same_model(const fs::path& model) const {
  require_same_inputs(read_model_inputs(model), state().values, run_dir_, "policy.model/");
}

void InputDigests::load_state(const State& state, const std::string& /*where*/) {
  require_same_inputs(inputs_, state.values, run_dir_);
}

}  // namespace unigrpo::train
