#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/build_folder.h"
#include "cli/model_commands.h"
#include "cli/model_options.h"
#include "data/prompt.h"
#include "monitor/samples_file.h"
#include "rollout/engine.h"
#include "runtime/runtime.h"
#include "train/generation_config.h"

namespace unigrpo::cli {

int run(const SampleOptions& options) {
  if (options.prompt.find_first_not_of(" \t\n") == std::string::npos)
    throw BadInput("--prompt: expected a text, got a blank one");
  checkpoint::require_unused(options.out);
  const train::GenerationConfig generation = generation_of(options.model);
  const Runtime runtime = runtime_of(options.model, options.seed);
  const auto model = load_model(options.model, runtime);
  rollout::RolloutEngine engine(*model, train::to_rollout_config(generation), runtime, generation.system_prompt);
  const data::Prompt prompt{.id = "0", .text = options.prompt, .tag = {}, .images = options.images, .seed = {}};
  const auto trajectories = engine.rollout({.prompts = std::span(&prompt, 1),
                                            .keys = {0},
                                            .group_size = options.count,
                                            .first_sample = 0,
                                            .step = 0,
                                            .stochastic = false,
                                            .guidance = generation.guidance,
                                            .teacher_forced_text = {}});
  runtime.stop.throw_if_requested();  // then there are none
  tell_settings(generation, model->eos_id());
  std::vector<monitor::SampleRow> rows;
  for (const auto& trajectory : trajectories) {
    rows.push_back({.sample = trajectory.sample, .scores = {}, .reasons = {}, .reward = {}, .advantage = {}});
    for (const auto& segment : trajectory.sample.segments) {
      if (segment.kind == data::SegmentKind::text) std::printf("%s\n", segment.text.c_str());
    }
  }
  checkpoint::build_folder(options.out,
                           [&](const std::filesystem::path& folder) { monitor::write_samples(folder, rows); });
  std::printf("%zu sample(s) in %s\n", rows.size(), options.out.c_str());
  return 0;
}

}  // namespace unigrpo::cli
