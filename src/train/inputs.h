#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "monitor/run_record.h"
#include "recipe/recipe.h"
#include "runtime/runtime.h"
#include "runtime/stateful.h"

namespace unigrpo::train {

/// The files that a run begins with, by recipe key, and file within its folder: "policy.model/config.json",
/// "data.prompts", "rewards.0.path".
using Inputs = std::map<std::string, monitor::InputFile>;

/// Reads all of them for their digests: the model folder's configs, tokenizer and weights, the prompt files, the images
/// that their rows name (all of a file's as one: "data.prompts/images"), the rewards' plugins and model folders. What
/// is not there is left out; whoever needs it says so. Throws BadInput as read_prompt_file does, Interrupted where a
/// stop came meanwhile.
Inputs read_inputs(const recipe::Recipe& recipe, const Runtime& runtime);
/// Those of the model folder alone.
Inputs read_model_inputs(const std::filesystem::path& model, const Runtime& runtime);

/// Whether the recipe key names a file or folder whose content is among the inputs, so that it may lie elsewhere.
bool is_input(std::string_view key);

/// Throws BadInput naming the file and the run `run_dir` where an input is another one than that which the run began
/// with, is gone, or has come. `began`: digest by key; of a run by an older build without those of images. Held against
/// each other are the keys that start with `prefix`.
void require_same_inputs(const Inputs& now, const std::map<std::string, std::string>& began, const std::string& run_dir,
                         std::string_view prefix = "");

/// Their digests as a part of each checkpoint, so that nothing goes on from it with other files.
class InputDigests : public Stateful {
 public:
  InputDigests(const Inputs& inputs, std::string run_dir) : inputs_(inputs), run_dir_(std::move(run_dir)) {}
  static constexpr const char* kName = "inputs";

  std::string name() const override { return kName; }
  State state() const override;
  void load_state(const State& state, const std::string& where) override;

  /// Throws BadInput where the model folder has changed since: what is not trained is copied from it at the end.
  void require_same_model(const std::filesystem::path& model, const Runtime& runtime) const;

 private:
  const Inputs& inputs_;
  const std::string run_dir_;
};

}  // namespace unigrpo::train
