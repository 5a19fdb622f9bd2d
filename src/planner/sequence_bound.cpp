// What no assignment of sequences to groups can undercut.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "planner/flexible_sequence.h"
#include "planner/milp.h"
#include "planner/numbers.h"
#include "planner/sequence_packing.h"

namespace unigrpo::planner {
namespace {

constexpr int kPriceSteps = 150;
constexpr int64_t kNodes = 25;

/// Sequences of one length and price.
struct Class {
  size_t first;
  double count = 0;
};

/// The table with equal sequences counted, and capacities in whole multiples of what all lengths are multiples of.
class Counted {
 public:
  explicit Counted(const SequenceTable& table) : t_(table) {
    std::map<std::pair<int64_t, double>, Class> classes;
    int64_t unit = 0;
    for (size_t j = 0; j < t_.lengths.size(); ++j) {
      ++classes.try_emplace({t_.lengths[j], t_.work.front()[j]}, Class{j}).first->second.count;
      unit = std::gcd(unit, t_.lengths[j]);
    }
    for (const auto& [key, one] : classes) classes_.push_back(one);
    for (size_t p = 0; p < t_.degrees.size(); ++p) capacity_.push_back(t_.capacity(p) / unit * unit);
  }

  const std::vector<Class>& classes() const { return classes_; }
  double degree(size_t p) const { return static_cast<double>(t_.degrees[p]); }
  double capacity(size_t p) const { return static_cast<double>(capacity_[p]); }
  double work(size_t p, const Class& one) const { return t_.work[p][one.first]; }
  double length(const Class& one) const { return static_cast<double>(t_.lengths[one.first]); }
  /// Whether a sequence may run at a degree within `limit` ms.
  bool fits(size_t p, const Class& one, double limit) const {
    return t_.lengths[one.first] <= capacity_[p] && t_.beta + work(p, one) <= limit;
  }
  /// The slowest of sequences alone, each at its best degree.
  double alone() const {
    double slowest = 0;
    for (const Class& one : classes_) {
      double least = kInfinity;
      for (size_t p = 0; p < capacity_.size(); ++p) {
        if (fits(p, one, kInfinity)) least = std::min(least, t_.beta + work(p, one));
      }
      slowest = std::max(slowest, least);
    }
    return slowest;
  }

 private:
  const SequenceTable& t_;
  std::vector<Class> classes_;
  std::vector<int64_t> capacity_;
};

/// Ranks that a time T takes at least, as far as prices show more than there are:
///
///   g(x) = sum_j min_P [ x_P P w_jP / (T - beta) + (1 - x_P) P s_j / C_P ],   0 <= x_P <= 1
///
/// the dual of the program below with real counts of groups. Any x bounds; x climbs by subgradients, each step as long
/// as `wanted` ranks would ask (Polyak).
double priced_ranks(const Counted& table, size_t degrees, double limit, double beta, double wanted) {
  std::vector<double> x(degrees, 0.5), slope(degrees);
  const auto ranks = [&] {
    std::ranges::fill(slope, 0);
    double sum = 0;
    for (const Class& one : table.classes()) {
      double least = kInfinity, rise = 0;
      size_t at = 0;
      for (size_t p = 0; p < degrees; ++p) {
        if (!table.fits(p, one, limit)) continue;
        const double time = limit > beta ? table.degree(p) * table.work(p, one) / (limit - beta) : 0,
                     memory = table.degree(p) * table.length(one) / table.capacity(p);
        const double price = x[p] * time + (1 - x[p]) * memory;
        if (price < least) least = price, at = p, rise = time - memory;
      }
      sum += one.count * least;
      slope[at] += one.count * rise;
    }
    return sum;
  };
  double most = 0, best_share = 0.5;
  for (int step = 0; step <= 8; ++step) {
    std::ranges::fill(x, step / 8.0);
    if (const double sum = ranks(); sum > most) most = sum, best_share = step / 8.0;
  }
  std::ranges::fill(x, best_share);
  for (int step = 0; step < kPriceSteps && most <= wanted; ++step) {
    const double sum = ranks();
    most = std::max(most, sum);
    double square = 0;
    for (size_t p = 0; p < degrees; ++p) {
      // Against a wall there is nowhere to go.
      if ((x[p] <= 0 && slope[p] < 0) || (x[p] >= 1 && slope[p] > 0)) slope[p] = 0;
      square += slope[p] * slope[p];
    }
    if (square < 1e-18) break;
    const double length = (wanted * (1 + 1e-6) - sum) / square;
    for (size_t p = 0; p < degrees; ++p) x[p] = std::clamp(x[p] + length * slope[p], 0.0, 1.0);
  }
  return most;
}

// Whole numbers n_P of groups, and how many y_cP of each class go to which degree:
//
//   least sum_P P n_P    such that    sum_P y_cP = count_c,
//   sum_c w_cP y_cP <= (T - beta) n_P,    sum_c s_c y_cP <= C_P n_P
Milp ranks_program(const Counted& table, size_t degrees, double limit, double beta, int64_t ranks) {
  Milp out;
  for (const Class& one : table.classes()) out.rows.push_back({one.count, one.count});
  const auto first = static_cast<int>(out.rows.size());
  for (size_t p = 0; p < degrees; ++p) {
    const int time = first + 2 * static_cast<int>(p), memory = time + 1;
    out.rows.push_back({-kInfinity, 0});
    out.rows.push_back({-kInfinity, 0});
    const double most = std::floor(static_cast<double>(ranks + 1) / table.degree(p)) + 1;
    out.columns.push_back({table.degree(p), 0, most, true, {{time, -1}, {memory, -1}}});
    for (size_t c = 0; c < table.classes().size(); ++c) {
      const Class& one = table.classes()[c];
      if (!table.fits(p, one, limit)) continue;
      out.columns.push_back({0,
                             0,
                             one.count,
                             false,
                             {{static_cast<int>(c), 1},
                              {time, table.work(p, one) / (limit - beta)},
                              {memory, table.length(one) / table.capacity(p)}}});
    }
  }
  return out;
}

}  // namespace

double sequence_lower_bound(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks) {
  if (sequences.empty()) return 0;
  const SequenceTable table(cost, sequences, ranks);
  const size_t degrees = table.degrees.size();
  if (degrees == 0) return kInfinity;
  const Counted counted(table);
  const double all = static_cast<double>(ranks) * (1 + 1e-12);
  double low = counted.alone();
  if (low == kInfinity) return low;
  const auto too_short = [&](double limit) { return priced_ranks(counted, degrees, limit, table.beta, all) > all; };
  if (!too_short(low)) return low;
  double high = low + 1e-6;
  for (int round = 0; too_short(high); ++round) {
    if (round == 60) return kInfinity;  // memory alone takes more
    low = high;
    high *= 2;
  }
  for (int round = 0; round < 24 && high - low > 1e-4 * high; ++round) {
    const double middle = (low + high) / 2;
    (too_short(middle) ? low : high) = middle;
  }
  return low;
}

double solver_lower_bound(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks, double low,
                          double high) {
  const SequenceTable table(cost, sequences, ranks);
  if (!has_milp_solver() || sequences.empty() || table.degrees.empty()) return low;
  const Counted counted(table);
  for (int round = 0; round < 8 && high - low > 2e-3 * low; ++round) {
    const double middle = (low + high) / 2;
    const auto needed =
        milp_lower_bound(ranks_program(counted, table.degrees.size(), middle, table.beta, ranks), kNodes);
    // Ranks are whole: what is proven to need more than there are needs one more, so that no tolerance decides.
    (needed && *needed > static_cast<double>(ranks) + 1e-3 ? low : high) = middle;
  }
  return low;
}

}  // namespace unigrpo::planner
