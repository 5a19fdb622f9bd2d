#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace unigrpo::planner {

/// What a micro-batch costs on a group of ranks that share its sequences (Ulysses). Times in ms.
///
///   T(group) = beta + sum_j [ (alpha1 pairs_j + alpha2 s_j) / P + a(P) s_j ],   pairs_j = s_j^2 unless given
///   a group holds sum_j s_j <= P * tokens_per_rank
///
/// Source: FlexSP (arXiv 2412.01523; PKU-DAIR/Hetu-Galvatron, branch flexsp, flexsp_solver/solver.py).
struct SequenceCost {
  double alpha1 = 0, alpha2 = 0, beta = 0;
  std::map<int64_t, double> comm_ms_per_token = {};  // a(P) by degree: the degrees that groups may have
  int64_t tokens_per_rank = 0;
};

struct Sequence {
  int64_t length = 0;
  double pairs = 0;  // attended pairs of tokens
};
/// Sequences that attend to themselves in full.
std::vector<Sequence> full_attention(const std::vector<int64_t>& lengths);

struct SequenceGroup {
  int64_t degree = 1;
  std::vector<int64_t> sequences;  // indices, sorted
};

struct Assignment {
  std::vector<SequenceGroup> groups;  // the widest first
  double milliseconds = 0;            // of the slowest group
  double lower_bound = 0;             // proven
};

double group_ms(const SequenceCost& cost, const std::vector<Sequence>& sequences, const SequenceGroup& group);

/// What an assignment may take. `regroupings`: attempts to pack a few groups anew, some microseconds each; annealing
/// takes as long. `solver`: whether a mixed program tightens the bound, where there is a solver; never the groups, so
/// that they are the same without one.
inline constexpr int64_t kRegroupings = 4000;
struct AssignEffort {
  int64_t regroupings = kRegroupings;
  bool solver = true;
};

/// Groups of at most `ranks` ranks in sum, every sequence in exactly one, none empty, none over its memory, such that
/// the slowest is as quick as may be found; nothing where no assignment was found. Exact up to kExactSequences
/// sequences. A function of its input alone.
std::optional<Assignment> assign_sequences(const SequenceCost& cost, const std::vector<Sequence>& sequences,
                                           int64_t ranks, const AssignEffort& effort = {});
inline constexpr int64_t kExactSequences = 10;

/// No assignment is quicker: T is a bound where the ranks that it takes are proven to be more than there are, by prices
/// of time and of memory at each degree. Infinite where a sequence fits no degree.
double sequence_lower_bound(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks);
/// The same between `low`, a bound, and `high`, a time that is reached, with whole numbers of groups a degree; `low`
/// without a solver.
double solver_lower_bound(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks, double low,
                          double high);

/// A step in several micro-batches: longest first, cut into contiguous parts of the least largest token sum; the five
/// least counts for which assignments are found are tried, the best total time wins. Indices are those of `sequences`.
std::optional<std::vector<Assignment>> assign_step(const SequenceCost& cost, const std::vector<Sequence>& sequences,
                                                   int64_t ranks, int64_t regroupings = kRegroupings);

/// Least padding of `buckets` contiguous buckets of sorted lengths, each priced at its longest member.
int64_t least_padding(std::vector<int64_t> lengths, int64_t buckets);
/// The lengths with that padding, in the order given.
std::vector<int64_t> padded_lengths(const std::vector<int64_t>& lengths, int64_t buckets);
/// Buckets until padded tokens are at most (tokens + ranks * tokens_per_rank) / 2; from 16 on.
int64_t adaptive_buckets(const std::vector<int64_t>& lengths, int64_t capacity_tokens);

/// Cuts lengths, longest first, into contiguous parts of the least largest sum; sizes of the parts.
struct TokenSplit {
  int64_t largest_tokens = 0;
  std::vector<int64_t> sizes;
};
TokenSplit split_tokens(std::vector<int64_t> lengths, int64_t parts);

/// Lengths by the knots of a distribution, in whole numbers. Throws BadInput unless the knots rise from 0 to 10^6 ppm.
struct LengthQuery {
  std::vector<int64_t> ppm, length;
  int64_t count = 0, multiple = 1, limit = 0;
  std::vector<int64_t> at = {};
};
struct LengthSet {
  std::vector<int64_t> lengths;
  int64_t dropped = 0, total = 0;
  std::vector<int64_t> at_most;
};
LengthSet make_lengths(const LengthQuery& query);

}  // namespace unigrpo::planner
