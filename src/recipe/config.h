#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "data/segment_kind.h"
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

struct SharePoint {
  int64_t step = 0;
  double share = 1;
};

/// A task's part of a step's prompts, by the steps done before it: one number, or points with straight lines between
/// them, the first and the last holding on.
struct Share {
  using Point = SharePoint;
  std::vector<Point> points = {SharePoint{}};

  double at(int64_t step) const;
};

/// One of several things that a step trains on. What it leaves out is as in the rest of the recipe.
struct TaskConfig {                                       // recipe: [[tasks]]
  std::string name;                                       // of its metrics, task/<name>/...
  std::string prompts;                                    // prompt file
  std::vector<data::SegmentKind> episode;                 // empty = rollout.episode
  std::vector<std::string> rewards;                       // names of [[rewards]]; empty = all
  Share share;                                            // shares are relative: 3 and 1 as 0.75 and 0.25
  int64_t num_steps = 0, image_size = 0, max_tokens = 0;  // 0 = those of [rollout]
  std::string system_prompt;                              // empty = rollout.system_prompt
  std::string eval_prompts;                               // prompt file on which it is evaluated; empty = none
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
  // Of a model that draws clips.
  double clip_noise = 0.0;     // share of the world's clips made imperfect on purpose
  double video_weight = 1.0;   // of the video's velocity MSE
  double audio_weight = 1.0;   // of the audio's
  double independent_t = 0.2;  // share of noisy states whose streams have each its own t
  double isolated = 0.1;       // share of them without attention between the streams, for guidance
};

}  // namespace unigrpo::recipe
