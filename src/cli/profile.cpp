#include "cli/profile.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "cli/cluster_file.h"
#include "cli/commands.h"
#include "cli/model_commands.h"
#include "cli/recipe_workload.h"
#include "io/atomic_file.h"
#include "planner/profile_folder.h"

namespace unigrpo::cli {
namespace {

/// What is counted instead of measured.
struct Counted {
  std::string cluster;
  std::optional<double> tflops;
  double overlap = 1.15;
};

/// The files of a profile that is counted and not measured; `unigrpo_profile.json` beside them says so.
int count_profile(const ProfileOptions& options, const Counted& counted) {
  nlohmann::json about;
  if (options.hardware) {
    const planner::Cluster cluster = read_cluster(counted.cluster);
    planner::write_hardware_profile(planner::counted_hardware(cluster, counted.overlap), cluster.nodes,
                                    cluster.gpus_per_node, options.out);
    about["cluster"] = counted.cluster;
  } else {
    Workload workload = recipe_workload(options.model, options.overrides);
    if (options.seq > 0) workload.sample.tokens = options.seq;
    const planner::ModelShape shape = planner::read_model_shape(workload.model);
    workload.sample.trainable = trainable_share(workload, shape);
    const std::string name = std::filesystem::path(options.model).stem().string();
    planner::write_model_profile(planner::analytic_model(shape, workload.sample, *counted.tflops), name, options.out);
    about["recipe"] = options.model;
    about["tflops"] = *counted.tflops;
    about["tokens"] = workload.sample.tokens;
  }
  tell_profile(options, /*measured=*/false, std::move(about));
  return 0;
}

int run_profile(const ProfileOptions& options, const Counted& counted) {
  if (options.hardware == !options.model.empty()) {
    throw BadInput("profile takes --hardware or --model RECIPE; see `unigrpo profile --help`");
  }
  if (options.hardware && counted.tflops) throw BadInput("--tflops is of --model; links are counted by --cluster");
  if (!options.hardware && !counted.cluster.empty()) {
    throw BadInput("--cluster is of --hardware; a model is counted by --tflops");
  }
  const bool counts = options.hardware ? !counted.cluster.empty() : counted.tflops.has_value();
  return counts ? count_profile(options, counted) : run(options);
}

}  // namespace

const char* about_file(const ProfileOptions& options) {
  return options.hardware ? "unigrpo_profile_hardware.json" : "unigrpo_profile.json";
}

void tell_profile(const ProfileOptions& options, bool measured, nlohmann::json about) {
  about["format"] = "unigrpo-profile/1";
  about["measured"] = measured;
  io::write_file_atomic(std::filesystem::path(options.out) / about_file(options),
                        std::string_view(about.dump(1) + "\n"));
  fmt::print("{}\n", options.out);
}

Run declare_profile(CLI::App& app) {
  const auto o = std::make_shared<ProfileOptions>();
  const auto c = std::make_shared<Counted>();
  app.add_flag("--hardware", o->hardware, "Measure the links among the ranks of `unigrpo launch -n N -- profile ...`");
  app.add_option("--model", o->model, "Measure the model of a recipe, one layer against three of random weights");
  app.add_option("--out", o->out, "Folder for the profile's files")->required();
  app.add_option("--cluster", c->cluster, "With --hardware: count by the figures of a cluster file, measure nothing");
  app.add_option("--tflops", c->tflops, "With --model: count by what a rank's products reach, measure nothing")
      ->check(CLI::PositiveNumber);
  app.add_option("--overlap", c->overlap, "With --cluster: slowdown of compute and communication while both run")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 10.0));
  app.add_option("--seq", o->seq, "Tokens a sample (default: by the recipe's episode)")
      ->check(CLI::Range(int64_t{1}, int64_t{10000000}));
  app.add_option("--mode", o->mode, "static: one sample; batch: 1 to 8 samples; sequence: four lengths")
      ->capture_default_str()
      ->check(CLI::IsMember({"static", "batch", "sequence"}));
  app.add_option("--max-mb", o->max_mb, "Largest message, a power of two of MB")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{128}, int64_t{1024}));
  app.add_option("--device", o->device, "What a model is measured on: cpu (default), cuda or cuda:N");
  add_overrides(app, o->overrides);
  return [o, c] { return run_profile(*o, *c); };
}

}  // namespace unigrpo::cli
