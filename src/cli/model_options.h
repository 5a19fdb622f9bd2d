#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "policy/policy.h"
#include "train/generation_config.h"

namespace CLI {
class App;
}

namespace unigrpo::cli {

/// What `sample` and `eval` ask about a model and how it is sampled.
struct ModelOptions {
  std::string model, adapter, dtype = "float32";
  std::vector<std::string> program;
  std::optional<int64_t> num_steps;
  std::optional<double> guidance, image_guidance;
};

void add_model_options(CLI::App& app, ModelOptions& options);

/// The model folder's generation_config.json, with what the options say instead. Throws as read_generation_config does.
train::GenerationConfig generation_of(const ModelOptions& options);

/// The model with the adapter on top where there is one, all weights frozen. Throws BadInput for a dtype that is none,
/// and as policy::load does.
std::unique_ptr<policy::UnifiedPolicy> load_model(const ModelOptions& options);

}  // namespace unigrpo::cli
