#include "policy/sharded.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "parallel/groups.h"

namespace unigrpo::policy {
namespace {

/// Ranks that multiply with slices have the weights whole, so that all ranks have the same ones.
parallel::ShardedModel::Ranks ranks_of(const parallel::Groups& groups, const std::shared_ptr<parallel::Comm>& all) {
  const auto slices = [](const auto& layer) { return layer.tp > 1; };
  if (!slices(groups.shape) && std::ranges::none_of(groups.layers, slices)) {
    return {.shard = groups.shard, .replica = groups.replica};
  }
  if (groups.replica) {
    throw BadInput("parallel.shard_ranks: {} with parallel.tp > 1, with which all ranks share the weights; expected 0",
                   groups.shape.shard_ranks);
  }
  return {.shard = all, .replica = nullptr};
}

}  // namespace

void shard(UnifiedPolicy& policy, const parallel::ParallelConfig& config, const Runtime& runtime) {
  using parallel::Shard;
  const Shard shard = config.exact_reduction && config.shard == Shard::none ? Shard::gradients : config.shard;
  if (!config.exact_reduction && (!runtime.comm || shard == Shard::none)) return;
  parallel::ShardedModel::Ranks ranks{.shard = runtime.comm, .replica = nullptr};
  if (runtime.groups) ranks = ranks_of(*runtime.groups, ranks.shard);
  const auto model = std::make_shared<parallel::ShardedModel>(
      policy.units(), std::move(ranks), shard, config.reduce,
      config.exact_reduction ? parallel::Sum::pairwise : parallel::Sum::one_by_one);
  policy.set_sharded(model, 1);
  if (shard == Shard::weights) return_free_memory();  // of the whole model
}

NamedTensors trained_parameters(const UnifiedPolicy& policy) {
  std::map<std::string, NamedTensor> pieces;
  if (policy.sharded()) {
    for (NamedTensor& piece : policy.sharded()->pieces()) pieces.emplace(piece.name, piece);
  }
  NamedTensors trained;
  for (const NamedTensor& parameter : policy.parameters()) {
    if (!parameter.tensor.requires_grad()) continue;
    const auto found = pieces.find(parameter.name);
    trained.push_back(found == pieces.end() ? parameter : found->second);
  }
  return trained;
}

}  // namespace unigrpo::policy
