#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/groups.h"
#include "train/step_facts.h"

namespace unigrpo::train {

/// How the ranks of a run share its model and its steps; by default one process alone.
struct RankSpread {
  int64_t ranks = 1;
  int64_t threads = 1;                           // of each
  int64_t tp = 1, sp = 1;                        // that share each layer's products, and each sequence's tokens
  int64_t shard_ranks = 1;                       // that hold between them what `shard` says
  std::vector<parallel::LayerPlan> layers = {};  // where each has a plan of its own
  parallel::Schedule schedule = parallel::Schedule::one_f_one_b;
  parallel::Shard shard = parallel::Shard::none;  // of what no plan says otherwise
  parallel::Reduce reduce = parallel::Reduce::each;
  bool in_pieces = false;  // what nobody shares is in pieces all the same (policy/sharded.h)
  bool is_exact = false;   // a micro-batch is a group (parallel.exact_reduction)

  double sets() const { return static_cast<double>(ranks / (tp * sp)); }  // of ranks with samples of their own
  int64_t num_stages() const { return parallel::count_stages(layers); }
  /// Whether gradients go to their owners after each micro-batch, not once an optimizer step.
  bool reduces_each(parallel::Shard level) const;
  bool reduces_each() const { return reduces_each(shard); }
  int64_t stage_ranks() const { return ranks / num_stages(); }
  double pipelines() const { return sets() / static_cast<double>(num_stages()); }  // with micro-batches of their own
};

/// Its keys of [parallel], in words.
std::string describe(const RankSpread& spread);

/// Of a run on `ranks` ranks as the recipe's [parallel] says. Throws BadInput naming its key where they cannot be
/// spread so.
RankSpread spread_on_ranks(const recipe::Recipe& recipe, int64_t ranks, int64_t threads);

struct Amount {
  std::string what;
  double bytes;
};

/// Memory of a rank: what it holds all the time, and what more while it samples and while it learns.
struct RankMemory {
  std::vector<Amount> held, sampling, learning;
  double total() const;  // at the most
};

/// The part of it that is in the host's memory where there is another.
inline constexpr const char* kAsyncCopy = "copy that a checkpoint is written from";

RankMemory memory_of_rank(const StepFacts& facts, const RankSpread& spread);

/// What a rank sends in a step, by purpose. Counts, outlines and votes are left out: a few kB.
std::vector<Amount> sent_by_rank(const StepFacts& facts, const RankSpread& spread);

/// What the recipe's [parallel] says, as groups of ranks are made from it. Reads the plan where one is named.
parallel::GroupShape group_shape(const recipe::Recipe& recipe);

}  // namespace unigrpo::train
