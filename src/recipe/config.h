#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "reward/config.h"

namespace unigrpo::recipe {

UNIGRPO_ENUM(SftStage, autoencoder, joint);

struct RunConfig {  // recipe: [run]
  std::string name = "run";
  std::string dir;  // empty = runs/<name>
  int64_t seed = 0;
  int64_t num_steps = 100;
  int64_t threads = 0;  // 0 = all cores
  bool deterministic = false;
};

/// Scoring the policy on prompts that it is not trained on, by rewards that may be others than the trained ones.
struct EvalConfig {                         // recipe: [eval]
  std::string prompts;                      // prompt file; empty = no evaluation
  int64_t every = 0;                        // steps between evaluations; 0 = only before and after
  int64_t samples = 1;                      // a prompt
  int64_t max_prompts = 0;                  // 0 = all
  double cfg_scale = 0.0;                   // above 1: before and after are also scored with this guidance
  bool keep_best = false;                   // the weights with the best score so far go to best/ in the run folder
  std::vector<reward::TermConfig> rewards;  // the first one counts; none = by what the rows hold
};

/// Warm start of a model from scratch or from a folder: `unigrpo sft`.
struct SftConfig {  // recipe: [sft]
  SftStage stage = SftStage::joint;
  std::string output;  // model folder to write
  int64_t batch_size = 64;
  int64_t num_examples = 20000;  // joint: size of the pool that the embedded world draws, then reused
  double plan_noise =
      0.0;  // embedded world: share of plans made wrong on purpose (plans of edits and first turns, too)
  double scene_noise = 0.0;   // embedded world: share of images made to depart from the plan
  double answer = 0.0;        // embedded world: share of questions about an image
  double describe = 0.0;      // embedded world: share of images told in words
  double edit = 0.0;          // embedded world: share of changes of an image
  double self_correct = 0.0;  // embedded world: share of two turns, the second after a look at the first
  double answer_noise = 0.0;  // answer: share of answers made wrong
  double first_image_noise =
      0.3;                    // self_correct: share of first images that depart from their plan, and are not trained on
  double text_weight = 1.0;   // cross-entropy
  double image_weight = 1.0;  // velocity MSE
  int64_t timesteps_per_image = 4;  // noisy copies that share one context
  double prompt_dropout = 0.1;      // share of samples trained without prompt, for guidance
  double kl_weight = 1e-6;          // autoencoder: of the posterior KL
};

}  // namespace unigrpo::recipe
