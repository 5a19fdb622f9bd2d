// `train` and `sft`: two objectives of one trainer.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "base/subprocess.h"
#include "cli/model_commands.h"
#include "cli/ranks.h"
#include "io/atomic_file.h"
#include "recipe/parse.h"
#include "train/dry_run.h"
#include "train/rank_share.h"
#include "train/trainer.h"

namespace unigrpo::cli {
namespace {

std::string command_line() {
  std::string line;
  for (const std::string& argument : process_arguments()) {
    const bool plain = !argument.empty() && std::ranges::all_of(argument, [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) || std::string_view("_-./=,:+@%").find(c) != std::string::npos;
    });
    if (!line.empty()) line += ' ';
    if (plain) {
      line += argument;
      continue;
    }
    line += '\'';
    for (const char c : argument) line += c == '\'' ? "'\\''" : std::string(1, c);
    line += '\'';
  }
  return line;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

monitor::Launch this_launch() {
  const Build build = this_build();
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char start[32] = {};
  std::strftime(start, sizeof start, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return {.version = build.version,
          .commit = build.commit,
          .libtorch = build.libtorch,
          .cpu = fmt::format("{} ({})", cpu_name(), at::get_cpu_capability()),
          .threads = at::get_num_threads(),
          .command = command_line(),
          .start = start};
}

/// A recipe that lies in a run folder is resumed there, wherever the folder was moved since.
void stay_in_its_folder(const std::string& path, const std::vector<std::string>& overrides, recipe::Recipe& recipe) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(path).parent_path();
  if (fs::path(path).filename() != "recipe.toml" || !fs::exists(folder / "run.json")) return;
  for (const std::string& text : overrides) {
    if (text.starts_with("run.dir=") || text.starts_with("run.name=")) return;
  }
  std::error_code ignored;
  if (!fs::equivalent(folder.empty() ? "." : folder, recipe.run_dir(), ignored)) {
    recipe.run.dir = folder.empty() ? "." : folder.string();
  }
}

parallel::Deadlines deadlines_of(const parallel::ParallelConfig& config) {
  return {.meeting_s = static_cast<double>(config.meeting_timeout_s),
          .first_step_s = static_cast<double>(config.first_step_timeout_s),
          .step_s = static_cast<double>(config.step_timeout_s),
          .save_s = static_cast<double>(config.save_timeout_s)};
}

/// What must be equal on all ranks.
parallel::Terms terms_of(const recipe::Recipe& recipe) {
  parallel::Terms terms{.same = {{"the recipe", recipe::to_toml(recipe)}}};
  if (!recipe.parallel.plan.empty()) {
    terms.same.emplace_back("the plan of layers", io::read_text_file(recipe.parallel.plan));
  }
  return terms;
}

/// Of TrainOptions or SftOptions.
template <typename Options>
int run_training(const Options& options, recipe::Command command) {
  recipe::Recipe recipe;
  const auto prepare = [&](const parallel::World& world) -> Preparation {
    recipe = recipe::parse(options.path, options.overrides, command);
    if (options.resume) stay_in_its_folder(options.path, options.overrides, recipe);
    const std::string key = options.path + ": policy.device";
    return {.runtime = make_runtime({.device = parallel::device_of_rank(world, recipe.policy.device, key),
                                     .device_key = key,
                                     .seed = static_cast<uint64_t>(recipe.run.seed),
                                     .threads = recipe.run.threads,
                                     .deterministic = recipe.run.deterministic,
                                     .signals = true}),
            .terms = terms_of(recipe),
            .deadlines = deadlines_of(recipe.parallel),
            .shape = train::group_shape(recipe),
            .backend = recipe.parallel.backend,
            .run_folder = recipe.run_dir()};
  };
  return run_on_ranks(prepare, [&](const Runtime& runtime) {
    return static_cast<int>(train::run_training(recipe, command, runtime, options.resume, this_launch()));
  });
}

}  // namespace

int run(const TrainOptions& options) {
  if (!options.dry_run) return run_training(options, recipe::Command::train);
  const parallel::World world = parallel::read_world();
  if (world.rank != 0) return 0;
  const auto recipe = recipe::parse(options.path, options.overrides, recipe::Command::train);
  make_runtime({.threads = recipe.run.threads});
  train::Machine machine{.num_ranks = world.size, .local_ranks = world.local_size, .measure = true};
  if (options.num_gpus || options.gpu_gib) machine.num_gpus = options.num_gpus.value_or(1);
  if (options.gpu_gib) machine.gpu_gib = *options.gpu_gib;
  std::fputs(train::dry_run(recipe, machine).c_str(), stdout);
  return 0;
}

int run(const SftOptions& options) { return run_training(options, recipe::Command::sft); }

}  // namespace unigrpo::cli
