#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "recipe/parse.h"
#include "train/trainer.h"

namespace unigrpo::cli {
namespace {

struct Options {
  std::string path;
  std::vector<std::string> overrides;
  bool resume = false;
};

}  // namespace

Run declare_train(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("recipe", options->path, "Recipe file (TOML)")->required();
  app.add_flag("--resume", options->resume, "Go on from the newest checkpoint of the run folder");
  add_overrides(app, options->overrides);
  return [options] {
    const auto recipe = recipe::parse(options->path, options->overrides, recipe::Command::train);
    return static_cast<int>(train::run_training(recipe, options->resume));
  };
}

}  // namespace unigrpo::cli
