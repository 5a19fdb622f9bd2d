#include "cli/model_options.h"

#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/load_adapter.h"
#include "policy/load.h"
#include "train/build.h"

namespace unigrpo::cli {
namespace {

template <typename T>
void take(const std::optional<T>& given, T& value) {
  if (given) value = *given;
}

train::GenerationConfig read(const ModelOptions& options) {
  const auto beside_adapter = std::filesystem::path(options.adapter) / "generation_config.json";
  if (options.adapter.empty() || !std::filesystem::exists(beside_adapter)) {
    return train::read_generation_config(options.model);
  }
  return train::read_generation_config(options.model, beside_adapter);
}

}  // namespace

train::GenerationConfig generation_of(const ModelOptions& options) {
  policy::family_of(options.model);  // a folder that is no model's has no settings either
  train::GenerationConfig generation = read(options);
  if (!options.episode.empty()) {
    generation.episode.clear();
    for (const std::string& kind : options.episode) {
      generation.episode.push_back(enum_value<data::SegmentKind>(kind).value());
    }
  }
  take(options.image_size, generation.image_size);
  take(options.num_steps, generation.num_steps);
  take(options.timestep_shift, generation.timestep_shift);
  take(options.max_tokens, generation.max_tokens);
  take(options.cfg_scale, generation.guidance.text_scale);
  take(options.cfg_image_scale, generation.guidance.image_scale);
  take(options.cfg_renorm_min, generation.guidance.renorm_min);
  if (options.cfg_renorm_type) generation.guidance.renorm = enum_value<flow::Renorm>(*options.cfg_renorm_type).value();
  if (!options.cfg_interval.empty()) {
    generation.guidance.interval_low = options.cfg_interval.front();
    generation.guidance.interval_high = options.cfg_interval.back();
  }
  if (options.temperature) {
    generation.greedy = *options.temperature == 0;
    generation.temperature = generation.greedy ? 1.0 : *options.temperature;
  }
  take(options.top_k, generation.cut.top_k);
  take(options.top_p, generation.cut.top_p);
  take(options.min_p, generation.cut.min_p);
  if (options.system_prompt) {
    generation.system_prompt = *options.system_prompt;
  } else if (!generation.prompt_given) {
    generation.system_prompt = train::default_prompt(options.model, generation.episode);
  }
  train::check_ranges(generation, "options");
  return generation;
}

Runtime runtime_of(const ModelOptions& options, uint64_t seed, const parallel::World& world) {
  const std::string device = parallel::device_of_rank(world, options.device, "--device");
  return make_runtime({.device = device, .device_key = "--device", .seed = seed, .signals = true});
}

std::unique_ptr<policy::UnifiedPolicy> load_model(const ModelOptions& options, const Runtime& runtime) {
  policy::PolicyConfig config;
  config.model = options.model;
  config.freeze = {"*"};
  config.text = {.file = options.text_features, .length = options.text_length};
  const auto choice = enum_value<policy::DtypeChoice>(options.dtype);
  if (!choice) throw BadInput("--dtype: expected {}, got '{}'", enum_choices<policy::DtypeChoice>(), options.dtype);
  config.dtype = *choice;
  if (options.adapter.empty()) return policy::load(config, runtime);
  return checkpoint::load_with_adapter(config, options.adapter, runtime);
}

void tell_settings(const train::GenerationConfig& generation, int64_t eos_id) {
  if (const std::string told = train::told_left_out(generation, eos_id); !told.empty()) log::warn(told);
  std::printf("settings: %s\n", train::to_line(generation).c_str());
  std::fflush(stdout);  // an evaluation goes on for long
}

reward::Rewarder make_rewarder(const reward::RewardConfig& config, StopToken stop) {
  Runtime runtime = make_runtime({});
  runtime.stop = stop;
  return train::build_rewarder(config, runtime);
}

}  // namespace unigrpo::cli
