#include "policy/sharded.h"

#include <map>
#include <string>
#include <utility>

#include "parallel/groups.h"

namespace unigrpo::policy {

void shard(UnifiedPolicy& policy, const parallel::ParallelConfig& config, const Runtime& runtime) {
  using parallel::Shard;
  const Shard shard = config.exact_reduction && config.shard == Shard::none ? Shard::gradients : config.shard;
  if (!config.exact_reduction && (!runtime.comm || shard == Shard::none)) return;
  parallel::ShardedModel::Ranks ranks{.shard = runtime.comm, .replica = nullptr};
  if (runtime.groups) ranks = {.shard = runtime.groups->shard, .replica = runtime.groups->replica};
  const auto model = std::make_shared<parallel::ShardedModel>(
      policy.units(), std::move(ranks), shard, config.reduce,
      config.exact_reduction ? parallel::Sum::pairwise : parallel::Sum::one_by_one);
  policy.set_sharded(model, 1);
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
