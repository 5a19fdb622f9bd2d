#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "data/prompt.h"
#include "monitor/samples_file.h"
#include "rollout/engine.h"
#include "train/generation_config.h"

namespace unigrpo::cli {
namespace {

struct Options {
  ModelOptions model;
  std::string prompt, out;
  std::vector<std::string> images;
  uint64_t seed = 0;
  int64_t count = 1;
};

int run_sample(const Options& options) {
  if (options.prompt.find_first_not_of(" \t\n") == std::string::npos)
    throw BadInput("--prompt: expected a text, got a blank one");
  const train::GenerationConfig generation = generation_of(options.model);
  const auto model = load_model(options.model);
  rollout::RolloutEngine engine(*model, train::to_rollout_config(generation), options.seed, generation.system_prompt);
  const data::Prompt prompt{.id = "0", .text = options.prompt, .tag = {}, .images = options.images, .seed = {}};
  const auto trajectories = engine.rollout({.prompts = std::span(&prompt, 1),
                                            .keys = {0},
                                            .group_size = options.count,
                                            .first_sample = 0,
                                            .step = 0,
                                            .stochastic = false,
                                            .guidance = generation.guidance,
                                            .forced_text = {}});
  std::vector<monitor::SampleRow> rows;
  for (const auto& trajectory : trajectories) {
    rows.push_back({.sample = trajectory.sample, .scores = {}, .reasons = {}, .reward = {}, .advantage = {}});
    for (const auto& segment : trajectory.sample.segments) {
      if (segment.kind == data::SampleSegment::Kind::text) std::printf("%s\n", segment.text.c_str());
    }
  }
  monitor::write_samples(options.out, rows);
  std::printf("%zu sample(s) in %s\n", rows.size(), options.out.c_str());
  return 0;
}

}  // namespace

Run declare_sample(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  add_model_options(app, options->model);
  app.add_option("--prompt", options->prompt, "What to draw, to change or to answer")->required();
  app.add_option("--image", options->images, "Picture that the prompt is about; may be given again")
      ->allow_extra_args(false);
  app.add_option("--out", options->out, "Folder for the PNGs and samples.jsonl")->required();
  app.add_option("--seed", options->seed, "Of all noise (default 0)");
  app.add_option("--count", options->count, "Samples (default 1)")->check(CLI::Range(int64_t{1}, int64_t{10000}));
  return [options] { return run_sample(*options); };
}

}  // namespace unigrpo::cli
