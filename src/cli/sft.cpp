#include "train/sft.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "recipe/parse.h"

namespace unigrpo::cli {
namespace {

struct Options {
  std::string path;
  std::vector<std::string> overrides;
};

}  // namespace

Run declare_sft(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("recipe", options->path, "Recipe file (TOML) with an [sft] table")->required();
  add_overrides(app, options->overrides);
  return [options] {
    train::run_sft(recipe::parse(options->path, options->overrides, recipe::Command::sft));
    return 0;
  };
}

}  // namespace unigrpo::cli
