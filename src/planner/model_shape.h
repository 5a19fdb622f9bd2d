#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "planner/cost_model.h"

namespace unigrpo::planner {

/// The language model that a policy repeats, as its config file says.
struct ModelShape {
  int64_t layers = 0, hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, vocab = 0;
  int64_t experts = 1;  // sets of weights a layer, of which a token uses one (BAGEL: understanding, generation)
};

/// Reads llm_config.json (BAGEL: two experts) or config.json. Throws BadInput naming file and key.
ModelShape read_model_shape(const std::filesystem::path& folder);

/// What a sample is, and how it is trained.
struct SampleShape {
  int64_t tokens = 0;    // of text and images together
  bool half = true;      // bf16
  double trainable = 1;  // share of parameters with gradients and moments
};

/// A model's costs from counting operations and bytes, for a machine whose matrix products reach `tflops`: no
/// measurement.
PlannedModel analytic_model(const ModelShape& shape, const SampleShape& sample, double tflops);

}  // namespace unigrpo::planner
