#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/signals.h"
#include "cli/commands.h"
#include "reward/rewarder.h"

namespace unigrpo::cli {

/// The commands that need LibTorch: their rows of the table, in which `declare` knows only what follows here.
extern const std::vector<Command> kModelCommands;

/// What `sample` and `eval` ask about a model and how it is sampled: every key of generation_config.json.
struct ModelOptions {
  std::string model, adapter, dtype = "float32", device = "cpu";
  std::vector<std::string> episode;
  std::optional<int64_t> image_size, num_steps, max_tokens, top_k;
  std::optional<double> timestep_shift, temperature, top_p, min_p, cfg_scale, cfg_image_scale, cfg_renorm_min;
  std::optional<std::string> cfg_renorm_type, system_prompt;
  std::string text_features;
  int64_t text_length = 0;
  std::vector<double> cfg_interval;  // two, or none
};

struct TrainOptions {
  std::string path;
  std::vector<std::string> overrides;
  bool resume = false, dry_run = false;
  std::optional<int64_t> num_gpus;
  std::optional<double> gpu_gib;
};

struct SftOptions {
  std::string path;
  std::vector<std::string> overrides;
  bool resume = false;
};

struct SampleOptions {
  ModelOptions model;
  std::string prompt, out;
  std::vector<std::string> images;
  uint64_t seed = 0;
  int64_t count = 1;
};

struct EvalOptions {
  ModelOptions model;
  std::string prompts, reward, recipe, json, out;
  std::vector<std::string> overrides;  // of the recipe
  uint64_t seed = 0;
  int64_t num_samples = 1, max_prompts = 0;
  bool oracle_plan = false;
};

struct ExportOptions {
  std::string run, to, out, base_name, dtype = "float32";
  std::optional<int64_t> step;
  uint64_t shard_bytes = 0;
  bool raw = false;
};

struct InitOptions {
  std::string configs, out;
  bool float32 = false;
  uint64_t seed = 0;
};

struct SelftestOptions {
  std::string vectors, bagel, ltx2, planner;  // one of them
  std::string answers;                        // of planner: where they are written
  std::string out;                            // of ltx2: where the folder is written again
  std::string device = "cpu";
};

struct ProfileOptions {
  bool hardware = false;  // else a model
  std::string model, out, device = "cpu", mode = "static";
  std::vector<std::string> overrides;
  int64_t seq = 0;       // tokens a sample; 0: by the recipe's episode
  int64_t max_mb = 128;  // of a message
};

/// Runs a command. Defined twice: in `unigrpo-torch` each in the command's own file; in `unigrpo`, which has no
/// LibTorch in it, all in torch_program.cpp, where they start the former.
int run(const TrainOptions& options);
int run(const SftOptions& options);
int run(const SampleOptions& options);
int run(const EvalOptions& options);
int run(const ExportOptions& options);
int run(const InitOptions& options);
int run(const SelftestOptions& options);
int run(const ProfileOptions& options);  // measures; to count needs no LibTorch

/// The rewards of these terms. Defined twice as well: where one is no plugin, `unigrpo`, which loads neither OpenCV nor
/// curl, starts `unigrpo-torch` instead.
reward::Rewarder make_rewarder(const reward::RewardConfig& config, StopToken stop);

}  // namespace unigrpo::cli
