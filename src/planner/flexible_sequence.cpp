#include "planner/flexible_sequence.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "planner/numbers.h"
#include "planner/sequence_packing.h"

namespace unigrpo::planner {
namespace {

Assignment assignment_of(const SequenceTable& table, const SequenceBins& bins) {
  Assignment out;
  for (const SequenceBin& bin : bins) {
    if (bin.items.empty()) continue;
    SequenceGroup group{table.degrees[bin.degree], bin.items};
    std::ranges::sort(group.sequences);
    out.groups.push_back(std::move(group));
    out.milliseconds = std::max(out.milliseconds, bin.ms);
  }
  std::ranges::stable_sort(out.groups, [](const SequenceGroup& a, const SequenceGroup& b) {
    return a.degree != b.degree ? a.degree > b.degree : a.sequences < b.sequences;
  });
  return out;
}

void check(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks) {
  if (ranks < 1) throw BadInput("ranks must be at least 1, got {}", ranks);
  if (cost.tokens_per_rank < 1) throw BadInput("tokens_per_rank must be at least 1, got {}", cost.tokens_per_rank);
  for (const Sequence& s : sequences) {
    if (s.length < 1) throw BadInput("a sequence's length must be at least 1, got {}", s.length);
  }
}

}  // namespace

std::vector<Sequence> full_attention(const std::vector<int64_t>& lengths) {
  std::vector<Sequence> out;
  for (const int64_t s : lengths) out.push_back({s, static_cast<double>(s) * static_cast<double>(s)});
  return out;
}

double group_ms(const SequenceCost& cost, const std::vector<Sequence>& sequences, const SequenceGroup& group) {
  double ms = cost.beta;
  for (const int64_t j : group.sequences) {
    const auto length = static_cast<double>(sequences[j].length);
    ms += (cost.alpha1 * sequences[j].pairs + cost.alpha2 * length) / static_cast<double>(group.degree) +
          cost.comm_ms_per_token.at(group.degree) * length;
  }
  return ms;
}

std::optional<Assignment> assign_sequences(const SequenceCost& cost, const std::vector<Sequence>& sequences,
                                           int64_t ranks, const AssignEffort& effort) {
  check(cost, sequences, ranks);
  if (sequences.empty()) return Assignment{};
  const SequenceTable table(cost, sequences, ranks);
  if (table.degrees.empty()) return std::nullopt;
  if (static_cast<int64_t>(sequences.size()) <= kExactSequences && ranks <= 128) {
    const auto bins = exact_packing(table);
    if (!bins) return std::nullopt;
    Assignment out = assignment_of(table, *bins);
    out.lower_bound = out.milliseconds;
    return out;
  }
  const double bound = sequence_lower_bound(cost, sequences, ranks);
  if (bound == kInfinity) return std::nullopt;
  const auto bins = best_packing(table, bound, effort.regroupings);
  if (!bins) return std::nullopt;
  Assignment out = assignment_of(table, *bins);
  out.lower_bound = effort.solver ? solver_lower_bound(cost, sequences, ranks, bound, out.milliseconds) : bound;
  return out;
}

std::optional<std::vector<Assignment>> assign_step(const SequenceCost& cost, const std::vector<Sequence>& sequences,
                                                   int64_t ranks, int64_t regroupings) {
  check(cost, sequences, ranks);
  std::vector<int64_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](int64_t j) { return sequences[j].length; });
  std::vector<int64_t> lengths;
  int64_t tokens = 0;
  for (const int64_t j : order) lengths.push_back(sequences[j].length), tokens += sequences[j].length;
  int64_t widest = 0;
  for (const auto& [degree, comm] : cost.comm_ms_per_token) widest = degree <= ranks ? degree : widest;
  if (!lengths.empty() && lengths.front() > widest * cost.tokens_per_rank) return std::nullopt;
  const auto cut_in = [&](int64_t parts, int64_t effort) -> std::optional<std::vector<Assignment>> {
    std::vector<Assignment> step;
    int64_t first = 0;
    for (const int64_t size : split_tokens(lengths, parts).sizes) {
      std::vector<Sequence> part;
      for (int64_t i = first; i < first + size; ++i) part.push_back(sequences[order[i]]);
      auto assigned = assign_sequences(cost, part, ranks, {.regroupings = effort, .solver = false});
      if (!assigned) return std::nullopt;
      for (SequenceGroup& group : assigned->groups) {
        for (int64_t& j : group.sequences) j = order[first + j];
        std::ranges::sort(group.sequences);
      }
      step.push_back(std::move(*assigned));
      first += size;
    }
    return step;
  };
  const auto total_ms = [](const std::vector<Assignment>& step) {
    return std::accumulate(step.begin(), step.end(), 0.0,
                           [](double ms, const Assignment& a) { return ms + a.milliseconds; });
  };
  // Counts are compared with little effort, the best is made again with all.
  std::optional<std::vector<Assignment>> best;
  int64_t best_parts = 0;
  const int64_t capacity = ranks * cost.tokens_per_rank;
  int64_t parts = std::max<int64_t>(1, (tokens + capacity - 1) / capacity);
  for (int64_t tried = 0; tried < 5 && parts <= std::ssize(sequences); ++parts) {
    auto step = cut_in(parts, regroupings / 8);
    if (!step) continue;
    ++tried;
    if (!best || total_ms(*step) < total_ms(*best)) best = std::move(step), best_parts = parts;
  }
  if (!best) return std::nullopt;
  auto again = cut_in(best_parts, regroupings);
  return again && total_ms(*again) < total_ms(*best) ? again : best;
}

}  // namespace unigrpo::planner
