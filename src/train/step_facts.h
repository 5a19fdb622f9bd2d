#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "policy/load.h"
#include "recipe/recipe.h"

namespace unigrpo::train {

/// Parts of a model, in the order of a dry run's table.
enum Part { kUnderstanding, kGeneration, kEmbeddings, kLatents, kVision, kAutoencoder, kNumParts };

struct Parameters {
  std::array<double, kNumParts> all{}, trained{};
  double adapters = 0;  // of LoRA

  double total(bool with_autoencoder) const;
  double total_trained() const;
};

/// Tokens of one step, over all its samples.
struct StepTokens {
  double samples = 0, prefix = 0, text = 0;  // counts; prompt tokens (once a group); sampled at most
  double drawn = 0;                          // image tokens, once a denoising step
  double context = 0;                        // image tokens that later segments read
  double trained_image = 0;                  // image tokens of trained steps
  double row_context = 0;                    // tokens that a row ends up seeing
  double block = 0;                          // of one image

  /// Those that an update passes over.
  double trained() const { return prefix + text + context + trained_image; }
};

struct StepFlops {
  double decode, other_rollout, update, probes;
  double passes;  // forward passes that the update costs

  double total() const { return decode + other_rollout + update + probes; }
};

/// What a dry run knows of a recipe's model and of its first step, from configs and prompts alone.
struct StepFacts {
  const recipe::Recipe& recipe;
  const policy::ModelSizes& model;
  Parameters count;
  StepTokens tokens;
  std::string prompts;  // where they come from, in words
  bool lora, bf16, reference;

  double bytes() const { return bf16 ? 2 : 4; }  // of a weight
};

/// Throws BadInput for patterns that fit no parameter, and where a text model is to draw.
StepFacts step_facts(const recipe::Recipe& recipe, const policy::ModelSizes& model);

/// Of the drift monitor, on average over steps.
double probes_a_step(const StepFacts& facts);
StepFlops step_flops(const StepFacts& facts);

}  // namespace unigrpo::train
