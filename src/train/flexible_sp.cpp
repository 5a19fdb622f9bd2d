#include "train/flexible_sp.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>

#include "base/bytes.h"
#include "base/clock.h"
#include "parallel/comm.h"
#include "planner/model_shape.h"
#include "policy/paired/paired.h"
#include "rollout/trajectory_bytes.h"
#include "runtime/ranks.h"
#include "train/build.h"

namespace unigrpo::planner {

template <typename Bytes, SameAs<SequenceGroup> T>
static void fields(Bytes& bytes, T& group) {
  bytes(group.degree, group.sequences);
}

template <typename Bytes, SameAs<StepGroups> T>
static void fields(Bytes& bytes, T& groups) {
  bytes(groups.turns, groups.milliseconds, groups.lower_bound, groups.tokens_per_rank, groups.most_tokens);
}

}  // namespace unigrpo::planner

namespace unigrpo::train {
namespace {

using planner::SequenceGroup;
using planner::StepGroups;
using rollout::Trajectory;
using Turns = std::vector<std::vector<SequenceGroup>>;

constexpr double kCountedTflops = 400;
constexpr int64_t kNodeRanks = 8;

/// The language model whose layers are most of the work: of a pair the one that reads everything.
planner::ModelShape language_model_of(const std::filesystem::path& model) {
  if (policy::family_of(model).weights_file) return planner::read_model_shape(model);
  return planner::read_model_shape(model / policy::read_pair_config(model).image);
}

planner::SequenceWork work_of(const recipe::Recipe& recipe, const Runtime& runtime, const Policies& policies) {
  const bool compares = grpo::needs_reference(recipe.grpo, recipe.rollout), again = recipe.policy.recompute;
  planner::SequenceWork work{.ranks = runtime.mesh.world_size,
                             .degrees = policies.policy->sequence_degrees(),
                             .tokens_per_rank = recipe.grpo.micro_batch_tokens,
                             .half = recipe.policy.dtype == policy::DtypeChoice::bfloat16};
  work.passes = 3 + (again ? 1 : 0) + (compares ? 1 : 0);
  work.exchanges = 2 + (again ? 1 : 0) + (compares ? 1 : 0);
  if (recipe.parallel.shard == parallel::Shard::weights) work.gathers = compares ? 4 : 3;
  if (recipe.parallel.shard == parallel::Shard::gradients) work.gathers = 1;
  if (work.gathers > 0 && recipe.parallel.reduce == parallel::Reduce::last) work.gathers -= 1;
  return work;
}

/// How long a sample is, told by the rank that has it.
struct Length {
  int64_t row = 0;
  grpo::TrainingSize size;
};

template <typename Bytes, SameAs<Length> T>
void fields(Bytes& bytes, T& told) {
  bytes(told.row, told.size.tokens, told.size.prefix_tokens, told.size.pairs, told.size.prefix_pairs);
}

/// Samples that may be packed together: of one task, with images of one size.
std::vector<int64_t> kinds_of(const std::vector<Trajectory>& trajectories) {
  std::map<std::tuple<int64_t, int64_t, int64_t>, int64_t> numbers;
  std::vector<int64_t> kinds;
  for (const Trajectory& one : trajectories) {
    const policy::LatentGrid grid = one.flows.empty() ? policy::LatentGrid{} : one.flows.front().stream().grid;
    kinds.push_back(numbers.try_emplace({one.task, grid.height, grid.width}, std::ssize(numbers)).first->second);
  }
  return kinds;
}

/// Calls `visit(turn, first rank, group)` for each group of some turns.
template <typename Visit>
void for_each_group(const Turns& turns, const Visit& visit) {
  for (size_t turn = 0; turn < turns.size(); ++turn) {
    int64_t first = 0;
    for (const SequenceGroup& group : turns[turn]) {
      visit(turn, first, group);
      first += group.degree;
    }
  }
}

bool is_in(int64_t rank, int64_t first, const SequenceGroup& group) {
  return rank >= first && rank < first + group.degree;
}

/// What a rank has of a mini-batch.
void take_part(const Turns& turns, int64_t rank, grpo::Minibatch& minibatch) {
  minibatch.micro_batches.assign(turns.size(), {});
  minibatch.degrees.assign(turns.size(), 1);
  for_each_group(turns, [&](size_t turn, int64_t first, const SequenceGroup& group) {
    if (!is_in(rank, first, group)) return;
    minibatch.micro_batches[turn] = group.sequences;
    minibatch.degrees[turn] = group.degree;
  });
}

void tell(const std::vector<StepGroups>& minibatches, Metrics& out, std::string& summary) {
  StepGroups all;
  for (const StepGroups& one : minibatches) all += one;
  std::map<int64_t, int64_t> counts;
  for_each_group(all.turns, [&](size_t, int64_t, const SequenceGroup& group) { ++counts[group.degree]; });
  for (const auto& [degree, count] : counts) {
    out[fmt::format("parallel/groups_of_{}", degree)] = static_cast<double>(count);
    summary += fmt::format("{}{} of {}", summary.empty() ? "" : ", ", count, degree);
  }
  out["parallel/plan_ms"] = all.milliseconds;
  if (all.lower_bound > 0) out["parallel/plan_gap"] = all.milliseconds / all.lower_bound - 1;
  out["parallel/plan_tokens_per_rank"] = static_cast<double>(all.most_tokens);
  out["parallel/plan_tokens_limit"] = static_cast<double>(all.tokens_per_rank);
}

}  // namespace

FlexibleSp::FlexibleSp(const recipe::Recipe& recipe, const Runtime& runtime, const Policies& policies)
    : recipe_(recipe), runtime_(runtime) {
  const planner::SequenceWork work = work_of(recipe, runtime, policies);
  const planner::ModelShape shape = language_model_of(recipe.policy.model);
  const std::string& profile = recipe.parallel.profile;
  if (profile.empty()) {
    const int64_t node = std::min(work.ranks, kNodeRanks);
    const planner::Cluster cluster{.nodes = (work.ranks + node - 1) / node, .gpus_per_node = node};
    costs_ = planner::counted_costs(shape, cluster, kCountedTflops, work);
  } else {
    costs_ = planner::profiled_costs(planner::open_profile(profile), shape, work);
  }
  description_ = fmt::format("flexible sp: micro-batches on groups of {} ranks, up to {} tokens a rank; costs are {}",
                             fmt::join(work.degrees, ", "), work.tokens_per_rank,
                             profile.empty() ? "counted, not measured" : "those of " + profile);
}

void FlexibleSp::regroup(const std::vector<bool>& keep, uint64_t weights_version, Regrouped& regrouped,
                         Metrics& out) const {
  const Stopwatch watch;
  const std::vector<Trajectory>& trajectories = regrouped.trajectories();
  std::vector<Length> own;
  for (size_t row = 0; row < trajectories.size(); ++row) {
    if (trajectories[row].is_outline || !keep[row]) continue;
    own.push_back({static_cast<int64_t>(row), grpo::training_size(trajectories[row])});
  }
  const auto of_ranks = gather(runtime_, own, "lengths");
  std::vector<grpo::TrainingSize> sizes(trajectories.size());
  std::vector<int64_t> owners(trajectories.size(), -1);
  for (size_t rank = 0; rank < of_ranks.size(); ++rank) {
    for (const Length& told : of_ranks[rank]) {
      sizes[static_cast<size_t>(told.row)] = told.size;
      owners[static_cast<size_t>(told.row)] = static_cast<int64_t>(rank);
    }
  }
  regrouped.plan = grpo::plan_update(recipe_.grpo, trajectories, keep);
  double plan_s = 0;
  const auto planned = together(runtime_, "plan", [&] {
    const Stopwatch planning;
    std::vector<StepGroups> minibatches;
    if (!is_root(runtime_)) return minibatches;
    const std::vector<int64_t> kinds = kinds_of(trajectories);
    for (const grpo::Minibatch& minibatch : regrouped.plan) {
      std::vector<planner::StepSample> samples;
      for (const int64_t row : minibatch.rows) {
        const auto i = static_cast<size_t>(row);
        samples.push_back({.row = row,
                           .kind = kinds[i],
                           .prompt = trajectories[i].prompt_index,
                           .size = {.length = sizes[i].tokens, .pairs = sizes[i].pairs},
                           .prefix = {.length = sizes[i].prefix_tokens, .pairs = sizes[i].prefix_pairs}});
      }
      minibatches.push_back(planner::group_step(costs_, samples, runtime_.mesh.world_size));
    }
    plan_s = planning.seconds();
    return minibatches;
  });
  const auto minibatches = from_root(runtime_, planned, "plan");
  out["parallel/plan_s"] = from_root(runtime_, plan_s, "plan");
  Turns turns;
  for (size_t u = 0; u < minibatches.size(); ++u) {
    take_part(minibatches[u].turns, runtime_.mesh.rank, regrouped.plan[u]);
    turns.insert(turns.end(), minibatches[u].turns.begin(), minibatches[u].turns.end());
  }
  tell(minibatches, out, regrouped.summary);
  move_samples(turns, owners, weights_version, regrouped);
  out["time/plan"] = watch.seconds();
}

/// Each sample goes from the rank that drew it to those that train on it.
void FlexibleSp::move_samples(const Turns& turns, const std::vector<int64_t>& owners, uint64_t weights_version,
                              Regrouped& regrouped) const {
  const int64_t ranks = runtime_.mesh.world_size, rank = runtime_.mesh.rank;
  std::vector<std::vector<int64_t>> sent(static_cast<size_t>(ranks));  // rows, by the rank that they go to
  std::vector<int64_t> received;
  for_each_group(turns, [&](size_t, int64_t first, const SequenceGroup& group) {
    for (const int64_t row : group.sequences) {
      const int64_t owner = owners[static_cast<size_t>(row)];
      for (int64_t to = first; to < first + group.degree; ++to) {
        if (owner == rank && to != rank) sent[static_cast<size_t>(to)].push_back(row);
        if (owner != rank && to == rank) received.push_back(row);
      }
    }
  });
  std::string parcels;
  std::vector<int64_t> sizes;
  for (const std::vector<int64_t>& rows : sent) {
    const std::string parcel = rows.empty() ? "" : rollout::to_parcel(regrouped.trajectories(), rows, weights_version);
    sizes.push_back(std::ssize(parcel));
    parcels += parcel;
  }
  std::vector<int64_t> sizes_here;
  int64_t all = 0, here = 0;
  for (const std::vector<int64_t>& of_rank : gather(runtime_, sizes, "samples")) {
    sizes_here.push_back(of_rank[static_cast<size_t>(rank)]);
    here += sizes_here.back();
    for (const int64_t size : of_rank) all += size;
  }
  if (all == 0) return;
  at::Tensor in = at::empty({std::ssize(parcels)}, at::kByte), came = at::empty({here}, at::kByte);
  if (!parcels.empty()) std::memcpy(in.mutable_data_ptr(), parcels.data(), parcels.size());
  runtime_.comm->all_to_all(came, in, sizes_here, sizes, "samples");
  regrouped.keep_outlines(received);
  std::string_view left(static_cast<const char*>(came.const_data_ptr()), static_cast<size_t>(here));
  for (const int64_t size : sizes_here) {
    if (size > 0)
      rollout::open_parcel(left.substr(0, static_cast<size_t>(size)), weights_version, regrouped.trajectories());
    left.remove_prefix(static_cast<size_t>(size));
  }
}

}  // namespace unigrpo::train
