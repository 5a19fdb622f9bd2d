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
  const int64_t model = shape.tp * shape.sp;
  if (shape.in_pairs && !std::has_single_bit(static_cast<uint64_t>(world_size))) {
    throw BadInput("parallel.exact_reduction: expected 1, 2, 4, 8, ... ranks, got {}", world_size);
  }
  if (shape.in_pairs && (model != 1 || (shape.shard_ranks > 0 && shape.shard_ranks != world_size))) {
    throw BadInput("parallel.exact_reduction: expected tp = 1, sp = 1 and shard_ranks = 0, got {}, {} and {}", shape.tp,
                   shape.sp, shape.shard_ranks);
  }
  if (shape.flexible_sp && model != 1) {
    throw BadInput("parallel.flexible_sp: expected tp = 1 and sp = 1, got {} and {}", shape.tp, shape.sp);
  }
  if (model < 1 || shape.tp < 1 || world_size % model != 0) {
    throw BadInput("parallel: tp = {} x sp = {} does not divide {} ranks; their product may be {}", shape.tp, shape.sp,
                   world_size, fmt::join(divisors(world_size), ", "));
  }
  const int64_t weights = world_size / shape.tp;
  if (shape.shard_ranks < 0 || (shape.shard_ranks > 0 && weights % shape.shard_ranks != 0)) {
    throw BadInput("parallel.shard_ranks: {} does not divide the {} ranks with the same weights; expected 0 (all), {}",
                   shape.shard_ranks, weights, fmt::join(divisors(weights), ", "));
  }
}

Groups make_groups(const std::shared_ptr<Comm>& world, GroupShape shape) {
  check_shape(shape, world->size());
  const int64_t tp = shape.tp, sp = shape.sp, model = tp * sp, weights = world->size() / tp;
  int64_t block = (shape.shard_ranks == 0 ? weights : shape.shard_ranks) * tp;
  for (const LayerPlan& layer : shape.layers) block = std::lcm(block, layer.tp);  // each divides the world
  shape.shard_ranks = block / tp;
  const int64_t rank = world->rank(), w = rank / tp;  // w: among the ranks with the same weights
  Groups groups{.shape = shape,
                .tp_rank = rank % tp,
                .sp_rank = w % sp,
                .data_rank = w / sp,
                .shard_rank = w % shape.shard_ranks,
                .replica_rank = w / shape.shard_ranks,
                .data_ranks = world->size() / model,
                .replicas = weights / shape.shard_ranks};
  // The same groups are one on all ranks or on none, so that all make them in one order.
  std::map<std::vector<int64_t>, std::shared_ptr<Comm>> made{{ranks_from(0, world->size(), 1), world}};
  const auto group = [&](const char* name, int64_t first, int64_t count, int64_t step) {
    const std::vector<int64_t> ranks = ranks_from(first, count, step);
    const auto [found, is_new] = made.try_emplace(ranks);
    if (is_new) found->second = world->subgroup(ranks, name);
    return found->second;
  };
  const int64_t first = groups.data_rank * model;  // of this model
  groups.tensor = group("tensor", rank - groups.tp_rank, tp, 1);
  groups.sequence = group("sequence", first + groups.tp_rank, sp, tp);
  groups.model = group("model", first, model, 1);
  groups.data = group("data", rank - first, groups.data_ranks, model);
  groups.weights = group("weights", groups.tp_rank, weights, tp);
  const int64_t first_of_block = groups.replica_rank * block;
  groups.block = group("block", first_of_block, block, 1);
  groups.shard = group("shard", first_of_block + groups.tp_rank, shape.shard_ranks, tp);
  groups.replica = group("replica", rank - first_of_block, groups.replicas, block);
  for (int64_t size = 2; shape.flexible_sp && size <= world->size(); size *= 2) {
    const int64_t begin = rank - rank % size;
    if (begin + size <= world->size()) groups.blocks[size] = group("block", begin, size, 1);
  }
  for (const LayerPlan& layer : shape.layers) {
    const int64_t place = rank % layer.tp;
    groups.layers.push_back({.tp = layer.tp,
                             .sp = layer.sp,
                             .tensor = group("tensor", rank - place, layer.tp, 1),
                             .sequence = group("sequence", first + place, layer.sp, layer.tp),
                             .shard = group("shard", first_of_block + place, block / layer.tp, layer.tp)});
  }
  return groups;
}

}  // namespace unigrpo::parallel
