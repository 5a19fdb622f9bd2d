#include "policy/sharded.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "parallel/slice.h"

namespace unigrpo::policy {

using SliceRanks = parallel::ShardedModel::SliceRanks;

parallel::ShardedModel::Ranks ranks_of(const parallel::Groups& groups, size_t num_layers) {
  parallel::ShardedModel::Ranks ranks{.shard = groups.block, .replica = groups.replica};
  const auto is_sliced = [](const auto& layer) { return layer.tp > 1; };
  if (!is_sliced(groups.shape) && std::ranges::none_of(groups.layers, is_sliced)) return ranks;
  // The vocabulary has the slices of all layers, where those have the same.
  const bool alike = std::ranges::all_of(groups.layers, [&](const auto& layer) { return layer.tp == groups.shape.tp; });
  ranks.slices.push_back(alike ? SliceRanks{.tensor = groups.tensor, .shard = groups.shard} : SliceRanks{});
  for (size_t layer = 0; layer < num_layers; ++layer) {
    if (groups.layers.empty()) {
      ranks.slices.push_back({.tensor = groups.tensor, .shard = groups.shard});
    } else {
      ranks.slices.push_back({.tensor = groups.layers[layer].tensor, .shard = groups.layers[layer].shard});
    }
  }
  return ranks;
}

void cut_units(std::vector<NamedTensors>& units, const std::map<std::string, int64_t>& dimensions,
               const std::vector<SliceRanks>& ranks) {
  for (size_t unit = 0; unit < ranks.size(); ++unit) {
    const auto& tensor = ranks[unit].tensor;
    if (!tensor) continue;
    for (NamedTensor& parameter : units[unit]) {
      const auto found = dimensions.find(parameter.name);
      if (found == dimensions.end()) continue;
      parameter = parallel::cut(parameter, found->second, tensor->rank(), tensor->size());
    }
  }
}

namespace {

/// The units by the stages that hold them; `units` keeps this rank's own.
std::unique_ptr<parallel::OtherStages> split_by_stages(const UnifiedPolicy& policy, const parallel::Groups& groups,
                                                       std::vector<NamedTensors>& units) {
  const int64_t last = groups.shape.stages() - 1;
  const std::vector<std::string> head_names = policy.head_names();
  parallel::StagePart first{.stages = {0}, .parameters = {}}, tied{.stages = {0, last}, .parameters = {}},
      head{.stages = {last}, .parameters = {}};
  for (const NamedTensor& parameter : units.front()) {
    const bool of_head = std::ranges::find(head_names, parameter.name) != head_names.end();
    (policy.is_tied(parameter.name) ? tied : of_head ? head : first).parameters.push_back(parameter);
  }
  std::vector<parallel::StagePart> parts = {first, tied, head};
  units.front().clear();
  for (const parallel::StagePart& part : parts) {
    if (std::ranges::count(part.stages, groups.stage) == 0) continue;
    units.front().insert(units.front().end(), part.parameters.begin(), part.parameters.end());
  }
  for (size_t layer = 0; layer < groups.shape.layers.size(); ++layer) {
    const int64_t stage = groups.shape.layers[layer].stage;
    parts.push_back({.stages = {stage}, .parameters = units[layer + 1]});
    if (stage != groups.stage) units[layer + 1].clear();
  }
  return std::make_unique<parallel::OtherStages>(std::move(parts), groups.pipeline);
}

/// Of each unit: as the config has it, or a layer's plan.
std::vector<parallel::Shard> shards_of(const parallel::ParallelConfig& config, const Runtime& runtime,
                                       size_t num_units) {
  std::vector<parallel::Shard> shards(num_units, parallel::shard_level(config));
  if (!runtime.groups || runtime.groups->shape.layers.empty()) return shards;
  const parallel::GroupShape& shape = runtime.groups->shape;
  shards.front() = parallel::shard_level(config, shape.rest);
  for (size_t i = 0; i < shape.layers.size() && i + 1 < num_units; ++i) {
    shards[i + 1] = parallel::shard_level(config, shape.layers[i].shard);
  }
  return shards;
}

}  // namespace

void shard(UnifiedPolicy& policy, const parallel::ParallelConfig& config, const Runtime& runtime) {
  using parallel::Shard;
  parallel::ShardedModel::Ranks ranks{.shard = runtime.comm, .replica = nullptr};
  const size_t num_units = policy.units(/*with_adapters=*/false).size();
  if (runtime.groups && num_units > 0) ranks = ranks_of(*runtime.groups, num_units - 1);
  const bool sliced = !ranks.slices.empty(), staged = runtime.groups && runtime.groups->pipeline;
  std::vector<Shard> shards = shards_of(config, runtime, std::max<size_t>(num_units, 1));
  const bool shares = std::ranges::count(shards, Shard::none) < std::ssize(shards);
  if (!config.exact_reduction && !sliced && !staged && (!runtime.comm || !shares)) return;
  if (num_units == 0) {
    throw BadInput(
        "parallel: expected shard = \"none\", no plan and no exact_reduction: the model's weights cannot be spread");
  }
  const bool rolls_in_slices = config.rollout == parallel::RolloutWeights::tp;
  if (staged && rolls_in_slices) {
    throw BadInput("parallel.rollout: \"tp\" with {}, whose layers are in {} stages; expected \"gather\"", config.plan,
                   runtime.groups->shape.stages());
  }
  if (sliced && rolls_in_slices && !ranks.slices.front().tensor) {
    throw BadInput("parallel.rollout: \"tp\" with {}, whose layers differ in tp; expected \"gather\"", config.plan);
  }
  // Ranks with slices of a layer have each a share of what it has whole: that is summed over them all the same. Those
  // of a stage have pieces, if of no elements, of all parameters.
  std::ranges::replace(shards, Shard::none, Shard::optimizer);
  std::vector<NamedTensors> units = policy.units(/*with_adapters=*/sliced || staged);
  std::unique_ptr<parallel::OtherStages> others;
  if (staged) others = split_by_stages(policy, *runtime.groups, units);
  cut_units(units, policy.sliced_dimensions(), ranks.slices);
  const auto model = std::make_shared<parallel::ShardedModel>(units, std::move(ranks), std::move(shards), config.reduce,
                                                              parallel::kind_of_sum(config), std::move(others));
  if (sliced && rolls_in_slices) model->set_rollout_form(parallel::ShardedModel::Form::slices);
  policy.set_sharded(model, 1);
  if (sliced || staged || model->shares_weights()) return_free_memory();  // of the whole model
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
