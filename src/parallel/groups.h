#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "parallel/comm.h"
#include "parallel/layer_plan.h"

namespace unigrpo::parallel {

/// How the ranks of a world are spread: recipe [parallel].
struct GroupShape {
  int64_t tp = 1, sp = 1;    // ranks that share each layer's products, and each sequence's tokens
  int64_t shard_ranks = 0;   // that share optimizer state, gradients or weights; 0: all that hold the same weights
  bool in_pairs = false;     // sums over ranks are taken in pairs (Sum::pairwise)
  int64_t reward_ranks = 0;  // the last ones, which draw nothing
  bool flexible_sp = false;  // blocks of ranks that may share sequences for one micro-batch are made
  std::vector<LayerPlan> layers = {};         // where each has a plan of its own; tp and sp are those of most_shared()
  std::string plan_file = {};                 // that says so
  Schedule schedule = Schedule::one_f_one_b;  // of the stages that the layers have
  Shard rest = Shard::none;                   // of what belongs to no layer with a plan
  int64_t planned_ranks = 0;                  // that the file is for; 0: any

  int64_t stages() const { return count_stages(layers); }
};

/// The ranks that divide a layer's work.
struct LayerGroups {
  int64_t tp = 1, sp = 1;
  std::shared_ptr<Comm> tensor = {}, sequence = {};
  std::shared_ptr<Comm> shard = {};  // those of Groups::block that have this rank's slices of it
};

/// The groups that a rank belongs to: rank = (data_rank * sp + sp_rank) * tp + tp_rank, so that those who talk most are
/// neighbours. The ranks of a stage are neighbours, as many in each: all that shares the update's work or state is
/// within a stage. A group of one rank is null; two of the same ranks are one.
struct Groups {
  std::shared_ptr<Comm> tensor = {};     // tp ranks that multiply with slices of the same layers
  std::shared_ptr<Comm> sequence = {};   // sp ranks with parts of the same sequences
  std::shared_ptr<Comm> model = {};      // both: the tp x sp ranks that work on the same samples; a layer that fewer
                                         // ranks share has them in even parts, each with samples of its own
  std::shared_ptr<Comm> data = {};       // the ranks with this rank's place in other models
  std::shared_ptr<Comm> weights = {};    // the ranks of the stage that multiply with the same slices
  std::shared_ptr<Comm> block = {};      // neighbours that hold a model between them: shard_ranks x tp, or as many
                                         // more as the layers' plans ask for
  std::shared_ptr<Comm> shard = {};      // those of it with this rank's slices
  std::shared_ptr<Comm> replica = {};    // the ranks with this rank's place in other blocks
  std::vector<LayerGroups> layers = {};  // one for each of shape.layers
  /// With shape.flexible_sp: of 2, 4, 8, ... neighbours the block that has this rank, where it lies in the world.
  std::map<int64_t, std::shared_ptr<Comm>> blocks = {};
  /// The ranks with this rank's place in their stages, in the order of stages, twice: over NCCL what goes forward need
  /// not wait for what goes back.
  std::shared_ptr<Comm> pipeline = {}, pipeline_back = {};
  GroupShape shape = {};  // shard_ranks as it came out
  int64_t tp_rank = 0, sp_rank = 0, data_rank = 0, shard_rank = 0, replica_rank = 0;
  int64_t data_ranks = 1, replicas = 1;
  int64_t stage = 0;
};

/// `count` ranks from `first` on, `step` apart.
std::vector<int64_t> ranks_from(int64_t first, int64_t count, int64_t step);

/// Throws BadInput naming a key of [parallel] where the ranks cannot be spread so, with what would do.
void check_shape(const GroupShape& shape, int64_t world_size);

/// All ranks of the world together. Throws as check_shape and Comm::subgroup do.
Groups make_groups(const std::shared_ptr<Comm>& world, GroupShape shape);

}  // namespace unigrpo::parallel
