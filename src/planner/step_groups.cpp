#include "planner/step_groups.h"

#include <algorithm>
#include <iterator>
#include <map>

#include "base/error.h"

namespace unigrpo::planner {
namespace {

/// Samples that are planned as one.
struct Bundle {
  Sequence size;
  std::vector<int64_t> rows;
};

/// `widest`: ranks that may share a sequence.
std::vector<Bundle> bundles_of(const std::vector<StepSample>& samples, int64_t tokens_per_rank, int64_t widest) {
  std::vector<Bundle> bundles;
  std::map<int64_t, size_t> open;  // by prompt
  for (const StepSample& sample : samples) {
    const int64_t own = sample.size.length - sample.prefix.length;
    int64_t most = tokens_per_rank / 2;
    if (own <= sample.prefix.length) most = std::max(most, 2 * sample.size.length);
    most = std::min(most, std::max(widest * tokens_per_rank, sample.size.length));
    const auto [found, is_new] = open.try_emplace(sample.prompt, bundles.size());
    if (!is_new && bundles[found->second].size.length + own <= most) {
      Bundle& bundle = bundles[found->second];
      bundle.size.length += own;
      bundle.size.pairs += sample.size.pairs - sample.prefix.pairs;
      bundle.rows.push_back(sample.row);
      continue;
    }
    found->second = bundles.size();
    bundles.push_back({.size = sample.size, .rows = {sample.row}});
  }
  return bundles;
}

/// Attempts to pack anew, of which few sequences need few.
int64_t effort_for(size_t sequences) { return std::min(kRegroupings, 16 * static_cast<int64_t>(sequences)); }

/// Samples of one kind.
StepGroups group_kind(const SequenceCosts& costs, const std::vector<StepSample>& samples, int64_t ranks) {
  std::vector<Sequence> sequences;
  int64_t widest = 0, longest = 0, tokens = 0;
  for (const auto& [degree, ms] : costs.cost.comm_ms_per_token) widest = degree <= ranks ? degree : widest;
  if (widest == 0) throw BadInput("groups have no degree of at most {} ranks", ranks);
  const std::vector<Bundle> bundles = bundles_of(samples, costs.cost.tokens_per_rank, widest);
  for (const Bundle& bundle : bundles) {
    sequences.push_back(bundle.size);
    longest = std::max(longest, bundle.size.length);
    tokens += bundle.size.length;
  }
  const SequenceCost cost = costs.of(tokens, ranks, (longest + widest - 1) / widest);
  const auto step = assign_step(cost, sequences, ranks, effort_for(sequences.size()));
  if (!step) throw BadInput("no groups of {} ranks take the {} samples of a step", ranks, samples.size());
  StepGroups out{.tokens_per_rank = cost.tokens_per_rank};
  for (const Assignment& turn : *step) {
    out.milliseconds += turn.milliseconds;
    out.lower_bound += turn.lower_bound;
    std::vector<SequenceGroup>& groups = out.turns.emplace_back();
    for (const SequenceGroup& planned : turn.groups) {
      SequenceGroup& group = groups.emplace_back(SequenceGroup{.degree = planned.degree, .sequences = {}});
      int64_t own = 0;
      for (const int64_t j : planned.sequences) {
        const Bundle& bundle = bundles[static_cast<size_t>(j)];
        own += bundle.size.length;
        group.sequences.insert(group.sequences.end(), bundle.rows.begin(), bundle.rows.end());
      }
      std::ranges::sort(group.sequences);
      out.most_tokens = std::max(out.most_tokens, (own + group.degree - 1) / group.degree);
    }
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
