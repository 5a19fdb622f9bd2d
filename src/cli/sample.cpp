#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/build_folder.h"
#include "cli/model_commands.h"
#include "cli/model_options.h"
#include "cli/ranks.h"
#include "data/prompt.h"
#include "data/sample_bytes.h"
#include "monitor/samples_file.h"
#include "rollout/engine.h"
#include "runtime/ranks.h"
#include "runtime/runtime.h"
#include "train/generation_config.h"

namespace unigrpo::cli {
namespace {

/// What is asked for, and of whom.
struct Asked {
  train::GenerationConfig generation;
  std::unique_ptr<policy::UnifiedPolicy> model;
};

Asked read_inputs(const SampleOptions& options, const Runtime& runtime) {
  checkpoint::require_unused(options.out);
  const train::GenerationConfig generation = generation_of(options.model);
  return {generation, load_model(options.model, runtime)};
}

/// This rank's part of the samples: neighbours, so that ranks in their order give all.
std::vector<data::Sample> draw(const SampleOptions& options, const Asked& asked, const Runtime& runtime) {
  const auto first_of = [&](int64_t rank) { return options.count * rank / runtime.mesh.world_size; };
  const int64_t first = first_of(runtime.mesh.rank), count = first_of(runtime.mesh.rank + 1) - first;
  std::vector<data::Sample> samples;
  if (count == 0) return samples;
  rollout::RolloutEngine engine(*asked.model, train::to_rollout_config(asked.generation), runtime,
                                asked.generation.system_prompt);
  const data::Prompt prompt{.id = "0", .text = options.prompt, .tag = {}, .images = options.images, .seed = {}};
  auto trajectories = engine.rollout({.prompts = std::span(&prompt, 1),
                                      .keys = {0},
                                      .group_size = count,
                                      .first_sample = first,
                                      .step = 0,
                                      .stochastic = false,
                                      .guidance = asked.generation.guidance,
                                      .teacher_forced_text = {}});
  runtime.stop.throw_if_requested();  // then there are none
  for (auto& trajectory : trajectories) samples.push_back(std::move(trajectory.sample));
  return samples;
}

void tell(const SampleOptions& options, const Asked& asked, const std::vector<data::Sample>& samples) {
  tell_settings(asked.generation, asked.model->eos_id());
  std::vector<monitor::SampleRow> rows;
  for (const data::Sample& sample : samples) {
    rows.push_back({.sample = sample, .scores = {}, .reasons = {}, .reward = {}, .advantage = {}});
    for (const auto& segment : sample.segments) {
      if (segment.kind == data::SegmentKind::text) std::printf("%s\n", segment.text.c_str());
    }
  }
  checkpoint::build_folder(options.out,
                           [&](const std::filesystem::path& folder) { monitor::write_samples(folder, rows); });
  std::printf("%zu sample(s) in %s\n", rows.size(), options.out.c_str());
}

int sample(const SampleOptions& options, const Runtime& runtime) {
  const Asked asked = together(runtime, "inputs", [&] { return read_inputs(options, runtime); });
  const auto mine = together(runtime, "samples", [&] { return draw(options, asked, runtime); });
  std::vector<data::Sample> all;
  for (auto& of_rank : gather(runtime, mine, "samples")) std::ranges::move(of_rank, std::back_inserter(all));
  if (is_root(runtime)) tell(options, asked, all);
  return 0;
}

}  // namespace

int run(const SampleOptions& options) {
  const auto prepare = [&](const parallel::World& world) -> Preparation {
    if (options.prompt.find_first_not_of(" \t\n") == std::string::npos) {
      throw BadInput("--prompt: expected a text, got a blank one");
    }
    return {.runtime = runtime_of(options.model, options.seed, world)};
  };
  return run_on_ranks(prepare, [&](const Runtime& runtime) { return sample(options, runtime); });
}

}  // namespace unigrpo::cli
