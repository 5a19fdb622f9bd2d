#pragma once

#include <map>
#include <string>
#include <vector>

#include "checkpoint/config.h"
#include "data/config.h"
#include "flow/config.h"
#include "grpo/config.h"
#include "monitor/config.h"
#include "optim/config.h"
#include "parallel/config.h"
#include "policy/config.h"
#include "recipe/config.h"
#include "reward/config.h"
#include "rollout/config.h"

namespace unigrpo::recipe {

/// A whole recipe: one member a module's config. Made by recipe::parse only, so every value is in
/// range.
struct Recipe {
  RunConfig run;
  policy::PolicyConfig policy;
  data::DataConfig data;
  rollout::RolloutConfig rollout;
  grpo::GrpoConfig grpo;
  reward::RewardConfig reward;
  optim::OptimConfig optim;
  checkpoint::CheckpointConfig checkpoint;
  parallel::ParallelConfig parallel;
  monitor::MonitorConfig monitor;
  EvalConfig eval;
  SftConfig sft;
  std::vector<TaskConfig> tasks;

  /// Where each key that was given stands: "run.toml:3:9", "--set ...". Of no moment to what a run does.
  std::map<std::string, std::string> given;

  std::string run_dir() const { return run.dir.empty() ? "runs/" + run.name : run.dir; }
};

}  // namespace unigrpo::recipe
