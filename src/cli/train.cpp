#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "recipe/parse.h"
#include "train/dry_run.h"
#include "train/trainer.h"

namespace unigrpo::cli {
namespace {

struct Options {
  std::string path;
  std::vector<std::string> overrides;
  bool resume = false, dry_run = false;
  train::Machine machine;
};

}  // namespace

Run declare_train(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("recipe", options->path, "Recipe file (TOML)")->required();
  app.add_flag("--resume", options->resume, "Go on from the newest checkpoint of the run folder");
  auto* dry_run = app.add_flag("--dry-run", options->dry_run,
                               "Print what a step costs and what fits, from the recipe, config and headers alone");
  app.add_option("--gpus", options->machine.num_gpus, "With --dry-run: how many (default 1)")
      ->needs(dry_run)
      ->check(CLI::Range(int64_t{1}, int64_t{100000}));
  app.add_option("--gpu-memory", options->machine.gpu_gib, "With --dry-run: GiB of each (default 80)")
      ->needs(dry_run)
      ->check(CLI::Range(1.0, 10000.0));
  add_overrides(app, options->overrides);
  return [options] {
    const auto recipe = recipe::parse(options->path, options->overrides, recipe::Command::train);
    if (options->dry_run) {
      std::fputs(train::dry_run(recipe, options->machine).c_str(), stdout);
      return 0;
    }
    return static_cast<int>(train::run_training(recipe, options->resume));
  };
}

}  // namespace unigrpo::cli
