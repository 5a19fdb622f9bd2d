#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "data/sample.h"
#include "parallel/comm.h"
#include "rollout/engine.h"
#include "runtime/runtime.h"

namespace unigrpo::train {

/// The last ranks of a run, which draw nothing but judge what the others draw (parallel.reward_ranks): rollouts and
/// rewards are two modules on disjoint ranks, side by side (Spindle's waves, arXiv 2409.03365). A group goes to its
/// judge as soon as it is sampled; all samples of prompt p go to judge p mod the number of judges.
class RewardRanks {
 public:
  /// Of the runtime's ranks, which have samples of their own each and outnumber the judges. All make one alike for each
  /// rollout.
  RewardRanks(const Runtime& runtime, int64_t judges);

  bool is_judge() const { return comm_.rank() >= num_drawing(); }
  int64_t num_drawing() const { return comm_.size() - judges_; }
  /// [P]: what this judge is to judge, of groups of so many.
  std::vector<rollout::SampleRange> groups(int64_t num_prompts, int64_t group_size) const;

  /// Of a rank that draws: samples of prompt p, the first of them at place `first` of its group, go to their judge.
  void send(int64_t p, int64_t first, const std::vector<data::Sample>& samples);
  /// Nothing more comes from here. Returns once all has arrived.
  void end();
  /// Of a judge: hands on what comes, until nothing more does. The prompts' own images do not travel.
  void receive(const std::function<void(int64_t p, int64_t first, std::vector<data::Sample> samples)>& take);

 private:
  void post(at::Tensor tensor, int64_t to);
  at::Tensor fetch(int64_t from, const at::Tensor& into);

  parallel::Comm& comm_;
  const int64_t judges_;
  std::deque<std::shared_ptr<parallel::Comm::Message>> going_;
};

}  // namespace unigrpo::train
