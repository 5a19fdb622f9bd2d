#include "planner/sequence_packing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

// ---- packing, for many ----

/// How a new group is opened: at least so wide, where the sequence would fit a narrower one.
enum class Fit { fewest_rank_ms, least_time_left, least_memory_left };
struct PackStyle {
  size_t narrowest;
  Fit fit;  // which of the groups that a sequence fits takes it
};

/// Packs sequences in this order so that no group takes longer than `limit`; nothing where that needs more ranks.
std::optional<SequenceBins> pack(const SequenceTable& table, const std::vector<int64_t>& order, double limit,
                                 PackStyle style, int64_t most_ranks) {
  SequenceBins bins;
  int64_t ranks = 0;
  for (const int64_t j : order) {
    const int64_t length = table.lengths[j];
    double best = kInfinity;
    SequenceBin* target = nullptr;
    for (SequenceBin& bin : bins) {
      const double work = table.work[bin.degree][j];
      if (bin.tokens + length > table.capacity(bin.degree) || bin.ms + work > limit) continue;
      const auto degree = static_cast<double>(table.degrees[bin.degree]);
      const double cost = style.fit == Fit::fewest_rank_ms ? degree * work + 1e-9 * bin.ms
                          : style.fit == Fit::least_time_left
                              ? limit - bin.ms - work
                              : static_cast<double>(table.capacity(bin.degree) - bin.tokens);
      if (cost < best) best = cost, target = &bin;
    }
    if (target == nullptr) {
      size_t p = style.narrowest;
      while (p < table.degrees.size() && (length > table.capacity(p) || table.beta + table.work[p][j] > limit)) {
        ++p;
      }
      // What is left may be narrower than the style wants.
      while (p > 0 && p < table.degrees.size() && ranks + table.degrees[p] > most_ranks &&
             length <= table.capacity(p - 1) && table.beta + table.work[p - 1][j] <= limit) {
        --p;
      }
      if (p == table.degrees.size() || ranks + table.degrees[p] > most_ranks) return std::nullopt;
      ranks += table.degrees[p];
      target = &bins.emplace_back(SequenceBin{p, table.beta, 0, {}});
    }
    target->ms += table.work[target->degree][j];
    target->tokens += length;
    target->items.push_back(j);
  }
  return bins;
}

/// Moves and swaps out of the slowest group while that makes it quicker than it was, without any other becoming as
/// slow.
class Improver {
 public:
  Improver(const SequenceTable& table, SequenceBins& bins) : t_(table), bins_(bins) {}

  void run(int64_t most_rounds) {
    open_idle();
    for (int64_t round = 0; round < most_rounds; ++round) {
      const size_t worst = static_cast<size_t>(std::ranges::max_element(bins_, {}, &SequenceBin::ms) - bins_.begin());
      if (!move_out(worst) && !swap_out(worst) && !widen(worst)) break;
    }
  }

 private:
  double work(const SequenceBin& bin, int64_t j) const { return t_.work[bin.degree][j]; }

  /// Idle ranks become groups of their own, the widest first; they may stay empty.
  void open_idle() {
    int64_t idle = t_.num_ranks;
    for (const SequenceBin& bin : bins_) idle -= t_.degrees[bin.degree];
    for (size_t p = t_.degrees.size(); p-- > 0;) {
      for (; t_.degrees[p] <= idle; idle -= t_.degrees[p]) bins_.push_back({p, 0, 0, {}});
    }
  }

  void take(SequenceBin& bin, size_t at) {
    const int64_t j = bin.items[at];
    bin.items.erase(bin.items.begin() + static_cast<long>(at));
    bin.tokens -= t_.lengths[j];
    recount(bin);
  }
  void put(SequenceBin& bin, int64_t j) {
    bin.items.push_back(j);
    bin.tokens += t_.lengths[j];
    recount(bin);
  }
  /// Sums anew, so that no rounding gathers.
  void recount(SequenceBin& bin) {
    bin.ms = bin.items.empty() ? 0 : t_.beta;
    for (const int64_t j : bin.items) bin.ms += work(bin, j);
  }

  bool move_out(size_t worst) {
    SequenceBin& from = bins_[worst];
    double best = from.ms * (1 - 1e-12);
    size_t best_at = 0, best_to = bins_.size();
    for (size_t at = 0; at < from.items.size(); ++at) {
      const int64_t j = from.items[at];
      const double left = from.items.size() == 1 ? 0 : from.ms - work(from, j);
      for (size_t to = 0; to < bins_.size(); ++to) {
        const SequenceBin& bin = bins_[to];
        if (to == worst || bin.tokens + t_.lengths[j] > t_.capacity(bin.degree)) continue;
        const double after = (bin.items.empty() ? t_.beta : bin.ms) + work(bin, j);
        if (std::max(left, after) < best) best = std::max(left, after), best_at = at, best_to = to;
      }
    }
    if (best_to == bins_.size()) return false;
    const int64_t j = from.items[best_at];
    take(from, best_at);
    put(bins_[best_to], j);
    return true;
  }

  bool swap_out(size_t worst) {
    SequenceBin& from = bins_[worst];
    double best = from.ms * (1 - 1e-12);
    size_t best_at = 0, best_to = bins_.size(), best_other = 0;
    for (size_t at = 0; at < from.items.size(); ++at) {
      const int64_t j = from.items[at];
      for (size_t to = 0; to < bins_.size(); ++to) {
        const SequenceBin& bin = bins_[to];
        if (to == worst) continue;
        for (size_t other = 0; other < bin.items.size(); ++other) {
          const int64_t i = bin.items[other];
          const int64_t more = t_.lengths[j] - t_.lengths[i];
          if (bin.tokens + more > t_.capacity(bin.degree) || from.tokens - more > t_.capacity(from.degree)) continue;
          const double here = from.ms - work(from, j) + work(from, i), there = bin.ms - work(bin, i) + work(bin, j);
          if (std::max(here, there) < best) {
            best = std::max(here, there), best_at = at, best_to = to, best_other = other;
          }
        }
      }
    }
    if (best_to == bins_.size()) return false;
    SequenceBin& bin = bins_[best_to];
    const int64_t j = from.items[best_at], i = bin.items[best_other];
    take(from, best_at);
    take(bin, best_other);
    put(from, i);
    put(bin, j);
    return true;
  }

  /// The slowest group takes the ranks of an empty one of its degree, and the degree above.
  bool widen(size_t worst) {
    SequenceBin& from = bins_[worst];
    if (from.degree + 1 >= t_.degrees.size()) return false;
    int64_t needed = t_.degrees[from.degree + 1] - t_.degrees[from.degree];
    std::vector<size_t> taken;
    for (size_t i = 0; i < bins_.size() && needed > 0; ++i) {
      if (!bins_[i].items.empty() || t_.degrees[bins_[i].degree] > needed) continue;
      needed -= t_.degrees[bins_[i].degree];
      taken.push_back(i);
    }
    SequenceBin wider = from;
    ++wider.degree;
    recount(wider);
    if (needed > 0 || wider.ms >= from.ms) return false;
    from = wider;
    for (size_t i = taken.size(); i-- > 0;) bins_.erase(bins_.begin() + static_cast<long>(taken[i]));
    return true;
  }

  const SequenceTable& t_;
  SequenceBins& bins_;
};

constexpr int64_t kSequencesPerRegrouping = 50;

/// Packs the slowest group and a few others anew on their ranks and the idle ones, with other degrees perhaps, until
/// that no longer helps.
void regroup(const SequenceTable& table, SequenceBins& bins, RandomStream& random, int64_t attempts) {
  int64_t sequences = attempts * kSequencesPerRegrouping;  // wide groups that hold many make fewer attempts
  for (int64_t attempt = 0; attempt < attempts && sequences > 0; ++attempt) {
    std::erase_if(bins, [](const SequenceBin& bin) { return bin.items.empty(); });
    std::ranges::stable_sort(bins, [](const SequenceBin& a, const SequenceBin& b) { return a.ms > b.ms; });
    int64_t ranks = table.num_ranks;
    for (const SequenceBin& bin : bins) ranks -= table.degrees[bin.degree];
    std::vector<size_t> chosen = {0};
    const size_t more = std::min<size_t>(bins.size() - 1, 1 + random.below(4));
    while (chosen.size() <= more) {
      const size_t one = 1 + random.below(bins.size() - 1);
      if (std::ranges::find(chosen, one) == chosen.end()) chosen.push_back(one);
    }
    std::vector<std::pair<double, int64_t>> keyed;
    for (const size_t at : chosen) {
      ranks += table.degrees[bins[at].degree];
      for (const int64_t j : bins[at].items)
        keyed.emplace_back(-table.work.front()[j] * std::exp(0.1 * random.normal()), j);
    }
    sequences -= std::ssize(keyed);
    std::ranges::sort(keyed);
    std::vector<int64_t> order;
    for (const auto& [key, j] : keyed) order.push_back(j);
    const PackStyle style{random.below(table.degrees.size()), static_cast<Fit>(random.below(3))};
    const auto fresh = pack(table, order, bins[0].ms * (1 - 1e-9), style, ranks);
    if (!fresh) continue;
    std::ranges::sort(chosen, std::greater<>());
    for (const size_t at : chosen) bins.erase(bins.begin() + static_cast<long>(at));
    bins.insert(bins.end(), fresh->begin(), fresh->end());
  }
}

constexpr int64_t kTrialsPerRegrouping = 300;  // which takes about as long
constexpr int kOrders = 6;                     // longest first, and that with growing disorder

}  // namespace

SequenceTable::SequenceTable(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks)
    : beta(cost.beta), tokens_per_rank(cost.tokens_per_rank), num_ranks(ranks) {
  for (const auto& [degree, comm] : cost.comm_ms_per_token) {
    if (degree < 1 || degree > ranks) continue;
    degrees.push_back(degree);
    auto& row = work.emplace_back();
    for (const Sequence& s : sequences) {
      const auto length = static_cast<double>(s.length);
      row.push_back((cost.alpha1 * s.pairs + cost.alpha2 * length) / static_cast<double>(degree) + comm * length);
    }
  }
  for (const Sequence& s : sequences) lengths.push_back(s.length);
}

double slowest(const SequenceBins& bins) {
  double most = 0;
  for (const SequenceBin& bin : bins) most = std::max(most, bin.ms);
  return most;
}

// ---- exact, for few sequences ----

// best[set][n] = least over the part of `set` that holds its first sequence, and a degree P of it, of
//   max( T(part, P), best[set - part][n - P] )
std::optional<SequenceBins> exact_packing(const SequenceTable& table) {
  const auto count = table.lengths.size();
  const size_t sets = size_t{1} << count, width = static_cast<size_t>(table.num_ranks) + 1;
  std::vector<std::vector<double>> ms(table.degrees.size(), std::vector<double>(sets, kInfinity));
  for (size_t p = 0; p < table.degrees.size(); ++p) {
    for (size_t set = 1; set < sets; ++set) {
      double time = table.beta;
      int64_t tokens = 0;
      for (size_t j = 0; j < count; ++j) {
        if (set >> j & 1) time += table.work[p][j], tokens += table.lengths[j];
      }
      if (tokens <= table.capacity(p)) ms[p][set] = time;
    }
  }
  std::vector<double> best(sets * width, kInfinity);
  std::vector<std::pair<size_t, size_t>> from(sets * width);  // part, degree
  for (size_t n = 0; n < width; ++n) best[n] = 0;
  for (size_t set = 1; set < sets; ++set) {
    const size_t first = set & (~set + 1), others = set ^ first;
    for (size_t rest = others;; rest = (rest - 1) & others) {
      const size_t part = set ^ rest;
      for (size_t p = 0; p < table.degrees.size(); ++p) {
        if (ms[p][part] == kInfinity) continue;
        for (size_t n = static_cast<size_t>(table.degrees[p]); n < width; ++n) {
          const double time = std::max(ms[p][part], best[rest * width + n - static_cast<size_t>(table.degrees[p])]);
          if (time < best[set * width + n]) best[set * width + n] = time, from[set * width + n] = {part, p};
        }
      }
      if (rest == 0) break;
    }
  }
  if (best.back() == kInfinity) return std::nullopt;
  SequenceBins bins;
  size_t n = width - 1;
  for (size_t set = sets - 1; set != 0;) {
    const auto [part, p] = from[set * width + n];
    SequenceBin bin{p, ms[p][part], 0, {}};
    for (size_t j = 0; j < count; ++j) {
      if (part >> j & 1) bin.items.push_back(static_cast<int64_t>(j)), bin.tokens += table.lengths[j];
    }
    bins.push_back(std::move(bin));
    set ^= part;
    n -= static_cast<size_t>(table.degrees[p]);
  }
  return bins;
}

std::optional<SequenceBins> best_packing(const SequenceTable& table, double lower_bound, int64_t regroupings) {
  RandomStream random(StreamKey{.seed = 20250301, .purpose = Purpose::test});
  std::vector<SequenceBins> found;
  for (int disorder = 0; disorder < kOrders; ++disorder) {
    std::vector<int64_t> order(table.lengths.size());
    std::iota(order.begin(), order.end(), 0);
    std::vector<double> key = table.work.front();
    for (double& value : key) value *= std::exp(0.06 * disorder * random.normal());
    std::ranges::stable_sort(order, std::greater<>(), [&](int64_t j) { return key[j]; });
    for (size_t style_index = 0; style_index < 3 * table.degrees.size(); ++style_index) {
      const PackStyle style{style_index / 3, static_cast<Fit>(style_index % 3)};
      double low = lower_bound, high = lower_bound;
      std::optional<SequenceBins> bins;
      for (int round = 0; round < 40 && !bins; ++round) {
        high = low + (high - low) * 2 + 1e-3 * (lower_bound + 1);
        bins = pack(table, order, high, style, table.num_ranks);
      }
      if (!bins) continue;
      for (int round = 0; round < 24 && high - low > 1e-5 * high; ++round) {
        const double middle = (low + high) / 2;
        if (auto better = pack(table, order, middle, style, table.num_ranks)) {
          bins = std::move(better);
          high = std::min(middle, slowest(*bins));
        } else {
          low = middle;
        }
      }
      found.push_back(std::move(*bins));
    }
  }
  if (found.empty()) return std::nullopt;
  std::ranges::stable_sort(found, {}, slowest);
  if (found.size() > 10) found.resize(10);
  for (SequenceBins& bins : found) Improver(table, bins).run(400);
  std::ranges::stable_sort(found, {}, slowest);
  if (found.size() > 3) found.resize(3);
  for (SequenceBins& bins : found) {
    regroup(table, bins, random, regroupings);
    Improver(table, bins).run(400);
  }
  const SequenceBins& best = *std::ranges::min_element(found, {}, slowest);
  return anneal_packing(table, best, random, regroupings * kTrialsPerRegrouping);
}

}  // namespace unigrpo::planner
