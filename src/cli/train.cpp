// `train` and `sft`: two objectives of one trainer.
#include <cstdio>

#include "cli/model_commands.h"
#include "recipe/parse.h"
#include "train/dry_run.h"
#include "train/trainer.h"

namespace unigrpo::cli {
namespace {

int run_training(const recipe::Recipe& recipe, recipe::Command objective, bool resume) {
  const Runtime runtime =
      make_runtime({.seed = static_cast<uint64_t>(recipe.run.seed), .threads = recipe.run.threads, .signals = true});
  return static_cast<int>(train::run_training(recipe, objective, runtime, resume));
}

}  // namespace

int run(const TrainOptions& options) {
  const auto recipe = recipe::parse(options.path, options.overrides, recipe::Command::train);
  if (!options.dry_run) return run_training(recipe, recipe::Command::train, options.resume);
  make_runtime({.threads = recipe.run.threads});
  train::Machine machine{.measure = true};
  if (options.num_gpus || options.gpu_gib) machine.num_gpus = options.num_gpus.value_or(1);
  if (options.gpu_gib) machine.gpu_gib = *options.gpu_gib;
  std::fputs(train::dry_run(recipe, machine).c_str(), stdout);
  return 0;
}

int run(const SftOptions& options) {
  const auto recipe = recipe::parse(options.path, options.overrides, recipe::Command::sft);
  return run_training(recipe, recipe::Command::sft, options.resume);
}

}  // namespace unigrpo::cli
