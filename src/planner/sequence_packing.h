#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/rng.h"
#include "planner/flexible_sequence.h"

namespace unigrpo::planner {

/// The costs of each sequence at each degree that may be used.
struct SequenceTable {
  SequenceTable(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks);
  int64_t capacity(size_t degree) const { return degrees[degree] * tokens_per_rank; }

  double beta;
  int64_t tokens_per_rank, num_ranks;
  std::vector<int64_t> degrees, lengths;
  std::vector<std::vector<double>> work;  // [degree][sequence], ms without beta
};

/// A packing under way: groups by index of their degree.
struct SequenceBin {
  size_t degree;
  double ms;  // beta included
  int64_t tokens;
  std::vector<int64_t> items;
};
using SequenceBins = std::vector<SequenceBin>;

double slowest(const SequenceBins& bins);

/// The quickest packing of all; for a few sequences. Nothing where none fits.
std::optional<SequenceBins> exact_packing(const SequenceTable& table);

/// The best of several styles of packing and orders, each with the least limit that it manages, improved by moves,
/// swaps, by packing a few groups anew (`regroupings` attempts) and by annealing. Nothing where none fits.
std::optional<SequenceBins> best_packing(const SequenceTable& table, double lower_bound, int64_t regroupings);

/// A packing that is at least as quick, by annealing.
SequenceBins anneal_packing(const SequenceTable& table, const SequenceBins& bins, RandomStream& random, int64_t trials);

}  // namespace unigrpo::planner
