#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "cli/cluster_file.h"
#include "cli/commands.h"
#include "cli/recipe_workload.h"
#include "io/atomic_file.h"
#include "planner/profile_folder.h"

namespace unigrpo::cli {
namespace {

struct Options {
  std::string model, cluster, out;
  std::vector<std::string> overrides;
  bool hardware = false;
  double tflops = 400, overlap = 1.15;
  int64_t seq = 0;
};

/// The files of a profile that is counted and not measured; `unigrpo_profile.json` beside them says so.
int run_profile(const Options& options) {
  if (options.hardware == !options.model.empty()) {
    throw BadInput("profile takes --hardware or --model RECIPE; see `unigrpo profile --help`");
  }
  nlohmann::json about;
  about["format"] = "unigrpo-profile/1";
  about["measured"] = false;
  if (options.hardware) {
    if (options.cluster.empty()) throw BadInput("profile --hardware needs --cluster FILE: links are not measured yet");
    const planner::Cluster cluster = read_cluster(options.cluster);
    planner::write_hardware_profile(cluster, options.overlap, options.out);
    about["cluster"] = options.cluster;
  } else {
    Workload workload = recipe_workload(options.model, options.overrides);
    if (options.seq > 0) workload.sample.tokens = options.seq;
    const planner::ModelShape shape = planner::read_model_shape(workload.model);
    workload.sample.trainable = trainable_share(workload, shape);
    const std::string name = std::filesystem::path(options.model).stem().string();
    planner::write_model_profile(planner::analytic_model(shape, workload.sample, options.tflops), name, options.out);
    about["recipe"] = options.model;
    about["tflops"] = options.tflops;
    about["tokens"] = workload.sample.tokens;
  }
  const std::string file = options.hardware ? "unigrpo_profile_hardware.json" : "unigrpo_profile.json";
  io::write_file_atomic(std::filesystem::path(options.out) / file, std::string_view(about.dump(1) + "\n"));
  fmt::print("{}\n", options.out);
  return 0;
}

}  // namespace

Run declare_profile(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  app.add_flag("--hardware", o->hardware, "Profile links: here, those of --cluster by its figures");
  app.add_option("--model", o->model, "Profile the model of a recipe: here, by counting operations and bytes");
  app.add_option("--cluster", o->cluster, "Cluster file");
  app.add_option("--out", o->out, "Folder for the profile's files")->required();
  app.add_option("--tflops", o->tflops, "What a rank's products reach")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--overlap", o->overlap, "Slowdown of compute and communication while both run")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 10.0));
  app.add_option("--seq", o->seq, "Tokens a sample (default: by the recipe's episode)")
      ->check(CLI::Range(int64_t{1}, int64_t{10000000}));
  add_overrides(app, o->overrides);
  return [o] { return run_profile(*o); };
}

}  // namespace unigrpo::cli
