#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/paths.h"
#include "base/text.h"
#include "checkpoint/checkpoint_weights.h"
#include "checkpoint/export_model.h"
#include "checkpoint/export_peft.h"
#include "checkpoint/resume.h"
#include "checkpoint/stateful.h"
#include "cli/model_commands.h"
#include "io/step_folder.h"
#include "policy/load.h"
#include "policy/sharded.h"
#include "recipe/parse.h"
#include "train/build.h"
#include "train/inputs.h"

namespace unigrpo::cli {

namespace fs = std::filesystem;

namespace {

/// generation_config.json as final/ and best/ of the run have it, or its output where it was one of `sft`. A recipe may
/// serve both commands; `train` needs rewards and leaves final/.
std::optional<std::string> generation_of(const ExportOptions& options, const recipe::Recipe& recipe) {
  const bool is_sft =
      !recipe.sft.output.empty() && (recipe.reward.terms.empty() || !fs::exists(fs::path(options.run) / "final"));
  return is_sft ? train::sft_written_generation(recipe) : train::written_generation(recipe);
}

void require_possible(const ExportOptions& options, const recipe::Recipe& recipe, const policy::Family& family) {
  if (!options.base_name.empty() && options.to != "peft") throw BadInput("--base-name: goes with --to peft");
  if (options.to.empty()) return;
  if (options.to != "peft") {
    if (options.to == family.name) return;
    throw BadInput("--to {}: the model of {} is a {} folder, and is written as one", options.to, options.run,
                   family.name);
  }
  if (recipe.policy.train != policy::TrainMode::lora) {
    throw BadInput("--to peft: {} trained all weights (policy.train = \"full\"); export the whole model instead",
                   options.run);
  }
  if (family.weights_file == nullptr) {
    throw BadInput(
        "--to peft: {} trained a pair of models, and an adapter is of one; export the whole pair instead, with the "
        "adapters merged",
        options.run);
  }
}

/// "there are those of steps 60, 80", or that there are none.
std::string steps_in(const fs::path& checkpoints) {
  std::vector<std::string> steps;
  for (const int64_t step : io::list_steps(checkpoints)) steps.push_back(std::to_string(step));
  if (steps.empty()) return "there are none";
  return fmt::format("there are those of steps {} (a run keeps its last checkpoint.keep_last)", join(steps, ", "));
}

/// Trained weights belong to the rest of the model that they were trained with.
void require_same_model(const recipe::Recipe& recipe, const checkpoint::LoadedCheckpoint& loaded,
                        const std::string& run, const Runtime& runtime) {
  const auto began = checkpoint::values_of(loaded, train::InputDigests::kName);
  if (began.empty()) return;
  train::require_same_inputs(train::read_model_inputs(recipe.policy.model, runtime), began, run, "policy.model/");
}

}  // namespace

int run(const ExportOptions& options) {
  if (options.shard_bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    throw BadInput("--max-shard-size: expected a size such as 5GB, not a negative one");
  }
  const fs::path recipe_file = fs::path(options.run) / "recipe.toml";
  if (!fs::exists(recipe_file))
    throw BadInput("{}: not a run folder (no recipe.toml){}", options.run, seen_from(options.run));
  const auto recipe = recipe::parse(recipe_file, {}, recipe::Command::check);
  const Runtime runtime = make_runtime({.seed = static_cast<uint64_t>(recipe.run.seed), .signals = true});
  const fs::path checkpoints = fs::path(options.run) / "checkpoints";
  if (options.step && !fs::exists(checkpoints / io::step_name(*options.step))) {
    throw BadInput("{}: no checkpoint of step {}; {}", checkpoints.string(), *options.step, steps_in(checkpoints));
  }
  const auto loaded = options.step
                          ? std::optional(checkpoint::open_checkpoint(checkpoints / io::step_name(*options.step)))
                          : checkpoint::newest_checkpoint(checkpoints);
  if (!loaded) throw BadInput("{}: no checkpoint to export", checkpoints.string());
  require_same_model(recipe, *loaded, options.run, runtime);
  const policy::Family& family = policy::family_of(recipe.policy.model);
  require_possible(options, recipe, family);
  // Names, shapes and types of the weights are enough: their values come one by one as they are written.
  Runtime without_memory = runtime;
  without_memory.device = at::kMeta;
  const auto policy = policy::load(recipe.policy, without_memory);
  NamedTensors trained = policy::trained_parameters(*policy);
  const bool averaged = recipe.optim.ema.enabled && !options.raw;
  const std::string part = averaged ? "ema" : "policy", where = loaded->folder.string();
  const auto generation = generation_of(options, recipe);
  if (options.to == "peft") {
    for (NamedTensor& each : trained) each.tensor = at::empty_like(each.tensor, at::TensorOptions(at::kCPU));
    checkpoint::assign_converted(trained, loaded->tensors(part), where);
    checkpoint::LoraAdapter adapter{.rank = recipe.policy.lora.rank,
                                    .alpha = recipe.policy.lora.alpha,
                                    .dropout = recipe.policy.lora.dropout,
                                    .base_model = options.base_name.empty()
                                                      ? fs::absolute(recipe.policy.model).lexically_normal().string()
                                                      : options.base_name,
                                    .tensors = trained};
    checkpoint::export_peft(options.out, adapter,
                            {.task_type = family.generates_images ? "" : "CAUSAL_LM", .generation_config = generation});
  } else {
    checkpoint::ExportOptions settings;
    settings.dtype = options.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
    settings.shard_bytes = options.shard_bytes;
    settings.generation_config = generation;
    settings.stop = runtime.stop;
    settings.metadata = {{"unigrpo_run", recipe.run.name}, {"unigrpo_step", std::to_string(loaded->step)}};
    const auto weights =
        checkpoint::checkpoint_weights(*policy, trained, recipe.policy.lora, loaded->part(part), where);
    checkpoint::export_lazily(recipe.policy.model, options.out, weights, settings);
  }
  std::printf("step %lld of %s (%s weights) in %s\n", static_cast<long long>(loaded->step), options.run.c_str(),
              averaged ? "averaged" : "raw", options.out.c_str());
  return 0;
}

}  // namespace unigrpo::cli
