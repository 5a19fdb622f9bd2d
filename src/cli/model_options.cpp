#include "cli/model_options.h"

#include <ATen/ATen.h>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "checkpoint/export_peft.h"
#include "optim/parameters.h"
#include "policy/load.h"

namespace unigrpo::cli {

void add_model_options(CLI::App& app, ModelOptions& options) {
  app.add_option("--model", options.model, "Model folder in the official BAGEL or Qwen2.5 layout")->required();
  app.add_option("--adapter", options.adapter, "PEFT adapter folder on top of the model");
  app.add_option("--dtype", options.dtype, "Of the weights: float32 (default) or bfloat16");
  app.add_option("--program", options.program, "Segments of an answer, as text,image (default: the model's own)")
      ->delimiter(',')
      ->check(CLI::IsMember({"text", "image"}));
  app.add_option("--steps", options.num_steps, "Denoising steps (default: the model's generation_config.json)")
      ->check(CLI::Range(int64_t{1}, int64_t{10000}));
  app.add_option("--guidance", options.guidance, "Text guidance; 1 = none")->check(CLI::Range(1.0, 100.0));
  app.add_option("--image-guidance", options.image_guidance,
                 "Guidance by the prompt's pictures, beside --guidance; 1 = none")
      ->check(CLI::Range(1.0, 100.0));
}

train::GenerationConfig generation_of(const ModelOptions& options) {
  train::GenerationConfig generation = train::read_generation_config(options.model);
  if (!options.program.empty()) generation.program = options.program;
  if (options.num_steps) generation.num_steps = *options.num_steps;
  if (options.guidance) generation.guidance.text_scale = *options.guidance;
  if (options.image_guidance) generation.guidance.image_scale = *options.image_guidance;
  return generation;
}

std::unique_ptr<policy::UnifiedPolicy> load_model(const ModelOptions& options) {
  policy::PolicyConfig config;
  config.model = options.model;
  config.freeze = {"*"};
  const auto choice = enum_value<policy::DtypeChoice>(options.dtype);
  if (!choice) throw BadInput("--dtype: expected {}, got '{}'", enum_choices<policy::DtypeChoice>(), options.dtype);
  config.dtype = *choice;
  if (options.adapter.empty()) return policy::load(config, 0);
  const checkpoint::LoraAdapter lora = checkpoint::read_peft(options.adapter);
  config.train = policy::TrainMode::lora;
  config.lora.rank = lora.rank;
  config.lora.alpha = lora.alpha;
  config.lora.targets.clear();
  for (const NamedTensor& tensor : lora.tensors) {
    const auto tail = tensor.name.find(".lora_A.weight");
    if (tail != std::string::npos) config.lora.targets.push_back(tensor.name.substr(0, tail) + ".weight");
  }
  auto model = policy::load(config, 0);
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
