#include "parallel/groups.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <map>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace unigrpo::parallel {
namespace {

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> all;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) all.push_back(d);
  }
  return all;
}

}  // namespace

std::vector<int64_t> ranks_from(int64_t first, int64_t count, int64_t step) {
  std::vector<int64_t> ranks;
  for (int64_t i = 0; i < count; ++i) ranks.push_back(first + i * step);
  return ranks;
}

void check_shape(const GroupShape& shape, int64_t world_size) {
  const int64_t model = shape.tp * shape.sp, stages = shape.stages();
  if (shape.in_pairs && !std::has_single_bit(static_cast<uint64_t>(world_size))) {
    throw BadInput("parallel.exact_reduction: expected 1, 2, 4, 8, ... ranks, got {}", world_size);
  }
  if (shape.in_pairs && (model != 1 || (shape.shard_ranks > 0 && shape.shard_ranks != world_size))) {
    throw BadInput("parallel.exact_reduction: expected tp = 1, sp = 1 and shard_ranks = 0, got {}, {} and {}", shape.tp,
                   shape.sp, shape.shard_ranks);
  }
  if (shape.in_pairs && stages > 1) {
    throw BadInput("parallel.exact_reduction: expected layers of one stage, {} has {}", shape.plan_file, stages);
  }
  if (shape.flexible_sp && model != 1) {
    throw BadInput("parallel.flexible_sp: expected tp = 1 and sp = 1, got {} and {}", shape.tp, shape.sp);
  }
  if (shape.reward_ranks >= world_size) {
    throw BadInput("parallel.reward_ranks: {} of {} ranks leave none to draw; expected at most {}", shape.reward_ranks,
                   world_size, world_size - 1);
  }
  if (shape.planned_ranks > 0 && shape.planned_ranks != world_size) {
    throw BadInput("{}: world: a plan for {} ranks, this run has {}", shape.plan_file, shape.planned_ranks, world_size);
  }
  if (world_size % stages != 0) {
    throw BadInput("{}: {} stages do not divide {} ranks; their number may be {}", shape.plan_file, stages, world_size,
                   fmt::join(divisors(world_size), ", "));
  }
  const int64_t ranks = world_size / stages;
  const std::string of_stage = stages > 1 ? " of a stage" : "";
  if (model < 1 || shape.tp < 1 || ranks % model != 0) {
    throw BadInput("parallel: tp = {} x sp = {} does not divide {} ranks{}; their product may be {}", shape.tp,
                   shape.sp, ranks, of_stage, fmt::join(divisors(ranks), ", "));
  }
  const int64_t weights = ranks / shape.tp;
  if (shape.shard_ranks < 0 || (shape.shard_ranks > 0 && weights % shape.shard_ranks != 0)) {
    throw BadInput("parallel.shard_ranks: {} does not divide the {} ranks with the same weights; expected 0 (all), {}",
                   shape.shard_ranks, weights, fmt::join(divisors(weights), ", "));
  }
}

namespace {

/// The same groups are one on all ranks of a stage or on none, so that all make them in one order.
class GroupMaker {
 public:
  GroupMaker(std::shared_ptr<Comm> world, int64_t first_rank)
      : world_(std::move(world)), first_rank_(first_rank), made_{{ranks_from(0, world_->size(), 1), world_}} {}

  /// first: counted from the stage's first rank on.
  std::shared_ptr<Comm> in_stage(const char* name, int64_t first, int64_t count, int64_t step) {
    return of_world(name, first_rank_ + first, count, step);
  }
  std::shared_ptr<Comm> of_world(const char* name, int64_t first, int64_t count, int64_t step) {
    const std::vector<int64_t> ranks = ranks_from(first, count, step);
    const auto [found, is_new] = made_.try_emplace(ranks);
    if (is_new) found->second = world_->subgroup(ranks, name);
    return found->second;
  }

 private:
  const std::shared_ptr<Comm> world_;
  const int64_t first_rank_;
  std::map<std::vector<int64_t>, std::shared_ptr<Comm>> made_;
};

/// Those of each layer, of any stage: the own one's divide the work, and a split is made for all alike.
void add_layers(GroupMaker& make, int64_t rank, int64_t first_of_block, int64_t block, Groups& groups) {
  for (const LayerPlan& layer : groups.shape.layers) {
    const int64_t first_of_model = rank - rank % layer.ranks(), place = rank % layer.tp;
    groups.layers.push_back({.tp = layer.tp,
                             .sp = layer.sp,
                             .tensor = make.in_stage("tensor", rank - place, layer.tp, 1),
                             .sequence = make.in_stage("sequence", first_of_model + place, layer.sp, layer.tp),
                             .shard = make.in_stage("shard", first_of_block + place, block / layer.tp, layer.tp)});
  }
}

}  // namespace

Groups make_groups(const std::shared_ptr<Comm>& world, GroupShape shape) {
  check_shape(shape, world->size());
  const int64_t tp = shape.tp, sp = shape.sp, model = tp * sp, stages = shape.stages();
  const int64_t ranks = world->size() / stages, weights = ranks / tp;  // of a stage
  int64_t block = (shape.shard_ranks == 0 ? weights : shape.shard_ranks) * tp;
  for (const LayerPlan& layer : shape.layers) block = std::lcm(block, layer.tp);  // each divides the stage's ranks
  shape.shard_ranks = block / tp;
  const int64_t stage = world->rank() / ranks, rank = world->rank() % ranks;
  const int64_t w = rank / tp;  // among the ranks with the same weights
  Groups groups{.shape = shape,
                .tp_rank = rank % tp,
                .sp_rank = w % sp,
                .data_rank = world->rank() / model,
                .shard_rank = w % shape.shard_ranks,
                .replica_rank = w / shape.shard_ranks,
                .data_ranks = world->size() / model,
                .replicas = weights / shape.shard_ranks,
                .stage = stage};
  GroupMaker make(world, stage * ranks);
  const int64_t place = rank % model;  // in its model
  groups.tensor = make.in_stage("tensor", rank - groups.tp_rank, tp, 1);
  groups.sequence = make.in_stage("sequence", rank - place + groups.tp_rank, sp, tp);
  groups.model = make.in_stage("model", rank - place, model, 1);
  groups.data = make.of_world("data", place, groups.data_ranks, model);
  groups.weights = make.in_stage("weights", groups.tp_rank, weights, tp);
  const int64_t first_of_block = groups.replica_rank * block;
  groups.block = make.in_stage("block", first_of_block, block, 1);
  groups.shard = make.in_stage("shard", first_of_block + groups.tp_rank, shape.shard_ranks, tp);
  groups.replica = make.in_stage("replica", rank - first_of_block, groups.replicas, block);
  for (int64_t size = 2; shape.flexible_sp && size <= world->size(); size *= 2) {
    const int64_t begin = rank - rank % size;
    if (begin + size <= world->size()) groups.blocks[size] = make.of_world("block", begin, size, 1);
  }
  add_layers(make, rank, first_of_block, block, groups);
  if (stages > 1) {
    groups.pipeline = make.of_world("pipeline", rank, stages, ranks);
    groups.pipeline_back = world->subgroup(ranks_from(rank, stages, ranks), "pipeline_back");
  }
  return groups;
}

}  // namespace unigrpo::parallel
