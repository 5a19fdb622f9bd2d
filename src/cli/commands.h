#pragma once

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace unigrpo::cli {

/// Runs a command whose options have been read; returns the process's exit code. Throws BadInput and the like.
using Run = std::function<int()>;

/// One row of the table of commands: `declare` adds the command's options to its own part of the command line and
/// returns what to run once they are read. A command is one file, with `declare_xxx` at its end; those that need
/// LibTorch are declared in model_commands.cpp instead.
struct Command {
  const char* name;
  const char* description;
  Run (*declare)(CLI::App& app);
};

Run declare_data(CLI::App& app);
Run declare_draw(CLI::App& app);    // of data
Run declare_ingest(CLI::App& app);  // of data
Run declare_inspect(CLI::App& app);
Run declare_launch(CLI::App& app);
Run declare_plan(CLI::App& app);
Run declare_profile(CLI::App& app);
Run declare_recipe(CLI::App& app);
Run declare_report(CLI::App& app);
Run declare_reward(CLI::App& app);

/// Adds `--set key=value`, which may be given many times; the texts end in `overrides`, in order.
void add_overrides(CLI::App& app, std::vector<std::string>& overrides);

/// What `--version` prints.
std::string version_text();

/// The program: its release, the commit it was built from, and its LibTorch (empty: none).
struct Build {
  std::string version, commit, libtorch = {};
};
Build this_build();

}  // namespace unigrpo::cli
