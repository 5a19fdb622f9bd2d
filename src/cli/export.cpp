#include <ATen/ATen.h>

#include <cstdio>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/paths.h"
#include "checkpoint/export_model.h"
#include "checkpoint/export_peft.h"
#include "checkpoint/resume.h"
#include "cli/model_commands.h"
#include "io/step_folder.h"
#include "policy/load.h"
#include "recipe/parse.h"
#include "train/build.h"

namespace unigrpo::cli {

namespace fs = std::filesystem;

int run(const ExportOptions& options) {
  if (options.shard_bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    throw BadInput("--max-shard-size: expected a size such as 5GB, not a negative one");
  }
  const fs::path recipe_file = fs::path(options.run) / "recipe.toml";
  if (!fs::exists(recipe_file))
    throw BadInput("{}: not a run folder (no recipe.toml){}", options.run, seen_from(options.run));
  const auto recipe = recipe::parse(recipe_file, {}, recipe::Command::check);
  if (!options.to.empty() && options.to != "peft" && options.to != policy::family_of(recipe.policy.model).name) {
    throw BadInput("--to {}: the model of {} is a {} folder, and is written as one", options.to, options.run,
                   policy::family_of(recipe.policy.model).name);
  }
  const fs::path checkpoints = fs::path(options.run) / "checkpoints";
  const auto loaded = options.step
                          ? std::optional(checkpoint::open_checkpoint(checkpoints / io::step_name(*options.step)))
                          : checkpoint::newest_checkpoint(checkpoints);
  if (!loaded) throw BadInput("{}: no checkpoint to export", checkpoints.string());
  const auto policy = policy::load(recipe.policy, make_runtime({.seed = static_cast<uint64_t>(recipe.run.seed)}));
  const bool averaged = recipe.optim.ema.enabled && !options.raw;
  {
    const at::NoGradGuard no_grad;
    NamedTensors values = loaded->tensors(averaged ? "ema" : "policy");
    const auto trained = train::trained_parameters(*policy);
    for (size_t i = 0; i < values.size() && i < trained.size(); ++i) {
      values[i].tensor = values[i].tensor.to(trained[i].tensor.scalar_type());
    }
    optim::assign(trained, values, loaded->folder.string());
  }
  if (options.to == "peft") {
    if (recipe.policy.train != policy::TrainMode::lora) {
      throw BadInput("--to peft: {} trained all weights (policy.train = \"full\"); export the whole model instead",
                     options.run);
    }
    checkpoint::LoraAdapter adapter{.rank = recipe.policy.lora.rank,
                                    .alpha = recipe.policy.lora.alpha,
                                    .dropout = recipe.policy.lora.dropout,
                                    .base_model = recipe.policy.model,
                                    .tensors = train::trained_parameters(*policy)};
    checkpoint::export_peft(options.out, adapter);
  } else {
    checkpoint::ExportOptions settings;
    settings.dtype = options.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
    settings.shard_bytes = options.shard_bytes;
    settings.metadata = {{"unigrpo_run", recipe.run.name}, {"unigrpo_step", std::to_string(loaded->step)}};
    checkpoint::export_model(recipe.policy.model, options.out, policy->merged(), settings);
  }
  std::printf("step %lld of %s (%s weights) in %s\n", static_cast<long long>(loaded->step), options.run.c_str(),
              averaged ? "averaged" : "raw", options.out.c_str());
  return 0;
}

}  // namespace unigrpo::cli
