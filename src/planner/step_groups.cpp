#include "planner/step_groups.h"

#include <algorithm>
#include <iterator>
#include <map>

#include "base/error.h"

namespace unigrpo::planner {
namespace {

/// Samples of one kind.
StepGroups group_kind(const SequenceCosts& costs, const std::vector<StepSample>& samples, int64_t ranks) {
  std::vector<Sequence> sequences;
  int64_t widest = 0, longest = 0, tokens = 0;
  for (const auto& [degree, ms] : costs.cost.comm_ms_per_token) widest = degree <= ranks ? degree : widest;
  if (widest == 0) throw BadInput("groups have no degree of at most {} ranks", ranks);
  for (const StepSample& sample : samples) {
    sequences.push_back(sample.size);
    longest = std::max(longest, sample.size.length);
    tokens += sample.size.length;
  }
  const SequenceCost cost = costs.of(tokens, ranks, (longest + widest - 1) / widest);
  const auto step = assign_step(cost, sequences, ranks);
  if (!step) throw BadInput("no groups of {} ranks take the {} samples of a step", ranks, samples.size());
  StepGroups out{.tokens_per_rank = cost.tokens_per_rank};
  for (const Assignment& turn : *step) {
    out.milliseconds += turn.milliseconds;
    out.lower_bound += turn.lower_bound;
    std::vector<SequenceGroup> groups = turn.groups;
    for (SequenceGroup& group : groups) {
      int64_t own = 0;
      for (int64_t& j : group.sequences) {
        own += sequences[static_cast<size_t>(j)].length;
        j = samples[static_cast<size_t>(j)].row;
      }
      out.most_tokens = std::max(out.most_tokens, (own + group.degree - 1) / group.degree);
    }
    out.turns.push_back(std::move(groups));
  }
  return out;
}

}  // namespace

StepGroups& StepGroups::operator+=(const StepGroups& next) {
  std::ranges::copy(next.turns, std::back_inserter(turns));
  milliseconds += next.milliseconds;
  lower_bound += next.lower_bound;
  tokens_per_rank = std::max(tokens_per_rank, next.tokens_per_rank);
  most_tokens = std::max(most_tokens, next.most_tokens);
  return *this;
}

StepGroups group_step(const SequenceCosts& costs, const std::vector<StepSample>& samples, int64_t ranks) {
  std::map<int64_t, std::vector<StepSample>> kinds;
  for (const StepSample& sample : samples) kinds[sample.kind].push_back(sample);
  StepGroups out;
  for (const auto& [kind, of_it] : kinds) out += group_kind(costs, of_it, ranks);
  return out;
}

}  // namespace unigrpo::planner
