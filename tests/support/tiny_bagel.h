#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "policy/bagel/bagel.h"
#include "tensor/rng.h"

namespace unigrpo::testing {

/// A folder's model, every parameter trained (or LoRA on all of the language model's projections).
inline std::unique_ptr<policy::Bagel> load_bagel(const std::string& folder, policy::TrainMode train) {
  policy::PolicyConfig config;
  config.model = folder;
  config.train = train;
  config.lora.rank = 4;
  config.lora.alpha = 8;
  return policy::Bagel::load(config, {.seed = 5});
}

inline std::unique_ptr<policy::Bagel> tiny_bagel(policy::TrainMode train = policy::TrainMode::full) {
  return load_bagel(UNIGRPO_TEST_DATA "/bagel_tiny", train);
}

/// The model of assets/shapes-base, in which a row's bits do not depend on its neighbours.
inline std::unique_ptr<policy::Bagel> embedded_bagel(policy::TrainMode train = policy::TrainMode::full) {
  return load_bagel(UNIGRPO_SOURCE_DIR "/assets/shapes-base", train);
}

inline at::Tensor parameter(const policy::UnifiedPolicy& model, const std::string& name) {
  for (const NamedTensor& p : model.parameters()) {
    if (p.name == name) return p.tensor;
  }
  throw std::runtime_error("no parameter " + name);
}

/// Gives the B factors of fresh adapters, which are 0, values that show.
inline void randomize_adapters(policy::UnifiedPolicy& model) {
  const at::NoGradGuard no_grad;
  uint64_t index = 0;
  for (NamedTensor& p : model.parameters()) {
    if (p.name.ends_with(".lora_B.weight")) p.tensor.copy_(tensor::normal(p.tensor.sizes(), {.prompt = ++index}) * 0.1);
  }
}

/// Turns the end token's row of lm_head so that many a sampled token ends its text: rows of all
/// lengths.
inline void make_texts_end(policy::Bagel& model) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> ids = {model.bos_id()};
  for (int64_t i = 3; i < 60; ++i) ids.push_back(i * 6);
  policy::TrainBatch batch{.prefixes = {{}}, .sequences = {{}}};
  batch.sequences[0].blocks.push_back(policy::TextBlock{ids});
  const at::Tensor mean = model.forward_train(batch).text_hidden.mean(0);
  parameter(model, "language_model.lm_head.weight")[model.eos_id()].copy_(mean *
                                                                          (5.0 / mean.square().sum().item<double>()));
}

}  // namespace unigrpo::testing
