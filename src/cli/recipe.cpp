#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "recipe/parse.h"

namespace unigrpo::cli {
namespace {

struct Options {
  std::string path;
  std::vector<std::string> overrides;
  bool explain = false;
};

int run_recipe(const Options& options) {
  if (options.explain != options.path.empty()) {
    throw BadInput("recipe takes either a recipe file or --explain; see `unigrpo recipe --help`");
  }
  const std::string text =
      options.explain ? recipe::explain()
                      : recipe::to_toml(recipe::parse(options.path, options.overrides, recipe::Command::check));
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace

Run declare_recipe(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("recipe", options->path, "Recipe file to check; every key is printed with its value");
  app.add_flag("--explain", options->explain, "Print every key with type, default and meaning");
  add_overrides(app, options->overrides);
  return [options] { return run_recipe(*options); };
}

}  // namespace unigrpo::cli
