#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "parallel/comm.h"
#include "parallel/config.h"
#include "parallel/other_stages.h"
#include "parallel/sharded_unit.h"
#include "tensor/named_tensor.h"

namespace unigrpo::parallel {

/// What ranks share by a config: sums in pairs need gradients that are shared.
Shard shard_level(const ParallelConfig& config, Shard asked);
inline Shard shard_level(const ParallelConfig& config) { return shard_level(config, config.shard); }
Sum kind_of_sum(const ParallelConfig& config);
/// Whether gradients go to their owners after each micro-batch, not once an optimizer step.
bool reduces_each(Shard shard, Reduce reduce, Sum sum);

/// A model of which each rank holds a share (ZeRO, arXiv 1910.02054): its units in the order in which a forward pass
/// runs them, the first being what belongs to no layer and is whole for as long as a pass lasts. Of a pipeline's stage
/// those of its own: units of other stages are empty.
///
/// All ranks make the same passes. Which units one of them runs may depend on its data, and a pass may do nothing at
/// all: what a rank passes over, it gathers and reduces all the same, in the order of units, so that the calls among
/// ranks are the same everywhere.
class ShardedModel {
 public:
  /// Of a unit of which ranks hold slices (parallel/slice.h).
  struct SliceRanks {
    std::shared_ptr<Comm> tensor;  // those that have one each; null: it is not sliced
    std::shared_ptr<Comm> shard;   // those of Ranks::shard that have the same one; null: this one alone
  };
  struct Ranks {
    std::shared_ptr<Comm> shard;          // those that together hold a model; null: one rank holds it
    std::shared_ptr<Comm> replica;        // those that hold the same share; null: this one alone
    std::vector<SliceRanks> slices = {};  // by unit; empty: none is sliced
  };
  /// Of the units' parameters those that are pieces are this rank's slices. `shards`: of each unit; what none of them
  /// shares they have as with Shard::optimizer. Pairwise sums are made after each micro-batch.
  ShardedModel(const std::vector<NamedTensors>& units, Ranks ranks, std::vector<Shard> shards, Reduce reduce,
               Sum sum = Sum::one_by_one, std::unique_ptr<OtherStages> others = nullptr);
  ShardedModel(const std::vector<NamedTensors>& units, Ranks ranks, Shard shard, Reduce reduce,
               Sum sum = Sum::one_by_one, std::unique_ptr<OtherStages> others = nullptr)
      : ShardedModel(units, std::move(ranks), std::vector(units.size(), shard), reduce, sum, std::move(others)) {}

  /// Whether ranks hold shares of a unit's weights, or of any's.
  bool shares_weights(size_t unit) const { return shards_[unit] == Shard::weights; }
  bool shares_weights() const { return std::ranges::count(shards_, Shard::weights) > 0; }
  Sum sum() const { return sum_; }
  /// How many ranks hold it between them.
  int64_t num_ranks() const { return ranks_.shard ? ranks_.shard->size() : 1; }
  /// Whether ranks meet within passes, so that all need as many of them, in the same turns.
  bool passes_together() const;

  /// This rank's pieces of what trains, empty ones of what other stages hold.
  NamedTensors pieces() const;

  // A pass: forward, and backward with it or not. Passes over whole weights (see hold) gather nothing.
  void begin(bool with_backward);
  /// Of a pass whose forward was one by itself: other passes may have been made since.
  void begin_backward();
  /// Whatever was left out of it: also after an Interrupted, when its gradients are worth nothing.
  void end();
  /// Around a unit's forward, and around its second forward and backward (`again`).
  void enter(size_t unit, bool again);
  void leave(size_t unit, bool again);

  /// All weights are gathered until let_go() was called as often: slices as they are, of the own stage alone, or whole
  /// tensors.
  enum class Form { slices, whole };
  void hold(Form form);
  void let_go(Form form);
  /// What generation is done with.
  Form rollout_form() const { return rollout_form_; }
  void set_rollout_form(Form form) { rollout_form_ = form; }
  /// Pieces were written: what is whole is gathered anew before it is used again.
  void wrote();
  /// How often.
  uint64_t version() const { return version_; }

  /// After the last pass of an optimizer step: pieces have their gradients, those of parameters that had one on any
  /// rank.
  void finish_gradients();
  void drop_gradients();
  /// The sum of the squares of all gradients, the same bits on all ranks, and, unless they have slices, for any number
  /// of them.
  double square_of_gradients() const;

  /// What this rank keeps between passes: of the units' weights, and of gradients from one to the next.
  int64_t weight_bytes() const;
  int64_t gradient_bytes() const;

 private:
  void gather_with_next(size_t unit, int direction);
  void skip_backward(size_t unit);
  void finish_forward();
  void refresh();
  void return_unused_memory() const;
  bool reduces_each(size_t unit) const { return parallel::reduces_each(shards_[unit], reduce_, sum_); }
  void show_gradients();
  void make_whole();
  void make_slices();

  /// A parameter of which this rank has a slice.
  struct Slice {
    at::Tensor parameter;
    PieceOf piece;
    Comm* ranks = nullptr;  // that have one each
    at::Tensor own = {};    // while the parameter is whole
  };
  std::vector<ShardedUnit> units_;
  std::vector<Slice> slices_;
  const std::unique_ptr<OtherStages> others_;  // null: there is one stage
  const Ranks ranks_;
  const std::vector<Shard> shards_;
  const Reduce reduce_;
  const Sum sum_;
  Form rollout_form_ = Form::whole;
  int64_t held_ = 0, held_whole_ = 0;
  bool stale_ = false;
  uint64_t version_ = 0;
  // Of the pass under way.
  bool in_pass_ = false, gathers_ = false, with_backward_ = false, is_forward_done_ = false;
  size_t next_ = 0;  // units before it have been run or passed over
  size_t left_ = 0;  // units from it on have been run backward
};

}  // namespace unigrpo::parallel
