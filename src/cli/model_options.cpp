#include "cli/model_options.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "checkpoint/export_peft.h"
#include "optim/parameters.h"
#include "policy/load.h"

namespace unigrpo::cli {

train::GenerationConfig generation_of(const ModelOptions& options) {
  train::GenerationConfig generation = train::read_generation_config(options.model);
  if (!options.episode.empty()) {
    generation.episode.clear();
    for (const std::string& kind : options.episode) {
      generation.episode.push_back(enum_value<data::SegmentKind>(kind).value());
    }
  }
  if (options.num_steps) generation.num_steps = *options.num_steps;
  if (options.guidance) generation.guidance.text_scale = *options.guidance;
  if (options.cfg_image_scale) generation.guidance.image_scale = *options.cfg_image_scale;
  return generation;
}

std::unique_ptr<policy::UnifiedPolicy> load_model(const ModelOptions& options) {
  policy::PolicyConfig config;
  config.model = options.model;
  config.freeze = {"*"};
  const auto choice = enum_value<policy::DtypeChoice>(options.dtype);
  if (!choice) throw BadInput("--dtype: expected {}, got '{}'", enum_choices<policy::DtypeChoice>(), options.dtype);
  config.dtype = *choice;
  if (options.adapter.empty()) return policy::load(config, make_runtime({}));
  const checkpoint::LoraAdapter lora = checkpoint::read_peft(options.adapter);
  config.train = policy::TrainMode::lora;
  config.lora.rank = lora.rank;
  config.lora.alpha = lora.alpha;
  config.lora.targets.clear();
  for (const NamedTensor& tensor : lora.tensors) {
    const auto tail = tensor.name.find(".lora_A.weight");
    if (tail != std::string::npos) config.lora.targets.push_back(tensor.name.substr(0, tail) + ".weight");
  }
  auto model = policy::load(config, make_runtime({}));
  NamedTensors destination, source;
  for (const NamedTensor& parameter : model->parameters()) {
    if (parameter.name.find(".lora_") == std::string::npos) continue;
    destination.push_back({parameter.name, parameter.tensor.detach()});
  }
  for (const NamedTensor& tensor : lora.tensors) source.push_back({tensor.name, tensor.tensor.to(at::kFloat)});
  optim::assign(destination, source, options.adapter);
  return model;
}

}  // namespace unigrpo::cli
