#include "planner/flexible_sequence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "planner/sequence_packing.h"

namespace unigrpo::planner {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

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

double sequence_lower_bound(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks) {
  const SequenceTable table(cost, sequences, ranks);
  const size_t count = sequences.size();
  double low = 0;  // the slowest of sequences alone, each at its best degree
  for (size_t j = 0; j < count; ++j) {
    double least = kInfinity;
    for (size_t p = 0; p < table.degrees.size(); ++p) {
      if (table.lengths[j] <= table.capacity(p)) least = std::min(least, table.beta + table.work[p][j]);
    }
    low = std::max(low, least);
  }
  if (low == kInfinity || count == 0) return low;
  const auto needed = [&](double limit) {
    double most = 0;
    for (int step = 0; step <= 16; ++step) {
      const double x = step / 16.0;
      double sum = 0;
      for (size_t j = 0; j < count; ++j) {
        double least = kInfinity;
        for (size_t p = 0; p < table.degrees.size(); ++p) {
          if (table.lengths[j] > table.capacity(p) || table.beta + table.work[p][j] > limit) continue;
          least = std::min(least, static_cast<double>(table.degrees[p]) * table.work[p][j]);
        }
        sum += x * least / (limit - table.beta) +
               (1 - x) * static_cast<double>(table.lengths[j]) / static_cast<double>(table.tokens_per_rank);
      }
      most = std::max(most, sum);
    }
    return most;
  };
  const double all = static_cast<double>(ranks) * (1 + 1e-12);
  if (needed(low) <= all) return low;
  double high = low;
  for (int round = 0; round < 60 && needed(high) > all; ++round) high *= 2;
  for (int round = 0; round < 30; ++round) {
    const double middle = (low + high) / 2;
    (needed(middle) > all ? low : high) = middle;
  }
  return low;
}

std::optional<Assignment> assign_sequences(const SequenceCost& cost, const std::vector<Sequence>& sequences,
                                           int64_t ranks, int64_t regroupings) {
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
  const auto bins = best_packing(table, bound, regroupings);
  if (!bins) return std::nullopt;
  Assignment out = assignment_of(table, *bins);
  out.lower_bound = bound;
  return out;
}

std::optional<std::vector<Assignment>> assign_step(const SequenceCost& cost, const std::vector<Sequence>& sequences,
                                                   int64_t ranks) {
  check(cost, sequences, ranks);
  std::vector<int64_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](int64_t j) { return sequences[j].length; });
  std::vector<int64_t> lengths;
  int64_t tokens = 0;
  for (const int64_t j : order) lengths.push_back(sequences[j].length), tokens += sequences[j].length;
  const int64_t capacity = ranks * cost.tokens_per_rank;
  std::optional<std::vector<Assignment>> best;
  double best_ms = kInfinity;
  const int64_t least = std::max<int64_t>(1, (tokens + capacity - 1) / capacity);
  for (int64_t parts = least; parts < least + 5 && parts <= std::ssize(sequences); ++parts) {
    std::vector<Assignment> step;
    double ms = 0;
    int64_t first = 0;
    for (const int64_t size : split_tokens(lengths, parts).sizes) {
      std::vector<Sequence> part;
      for (int64_t i = first; i < first + size; ++i) part.push_back(sequences[order[i]]);
      auto assigned = assign_sequences(cost, part, ranks);
      if (!assigned) break;
      for (SequenceGroup& group : assigned->groups) {
        for (int64_t& j : group.sequences) j = order[first + j];
        std::ranges::sort(group.sequences);
      }
      ms += assigned->milliseconds;
      step.push_back(std::move(*assigned));
      first += size;
    }
    if (first == std::ssize(sequences) && ms < best_ms) best = std::move(step), best_ms = ms;
  }
  return best;
}

}  // namespace unigrpo::planner
