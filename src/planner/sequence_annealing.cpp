#include <algorithm>
#include <cmath>
#include <limits>

#include "planner/sequence_packing.h"

namespace unigrpo::planner {
namespace {

constexpr int kCycles = 3;
constexpr double kHot = 0.03, kCold = 0.001;  // ranks of excess that may be taken on
constexpr size_t kMostPieces = 5;             // that one or two groups become at once

/// Looks for groups that all end within a limit: moves and swaps sequences, splits and joins groups, and anneals
///
///   excess = sum over groups of  P max(0, ms - limit) / (limit - beta) + max(0, tokens - capacity) / tokens_per_rank
///
/// in ranks. Where it is 0 the packing is kept and the limit lowered. An empty group counts beta here, which is never
/// over the limit.
class SequenceAnnealer {
 public:
  SequenceAnnealer(const SequenceTable& table, const SequenceBins& bins, RandomStream& random)
      : t_(table), random_(random), best_(bins), bins_(bins), where_(table.lengths.size()) {
    int64_t idle = t_.num_ranks;
    for (const SequenceBin& bin : bins_) idle -= t_.degrees[bin.degree];
    for (size_t p = t_.degrees.size(); p-- > 0;) {
      for (; t_.degrees[p] <= idle; idle -= t_.degrees[p]) bins_.push_back({p, t_.beta, 0, {}});
    }
    lower(slowest(best_));
  }

  void run(int64_t trials) {
    if (!(limit_ > t_.beta)) return;  // nothing is quicker than an empty group
    const double cooling = std::pow(kCold / kHot, 1.0 / static_cast<double>(trials));
    heat_ = kHot;
    for (int64_t trial = 0; trial < trials; ++trial) {
      heat_ *= cooling;
      const double kind = random_.uniform();
      if (kind < 0.002) {
        regroup();
      } else if (kind < 0.35) {
        move();
      } else {
        swap();
      }
      if (excess_ < 1e-9 && trial % 16 == 0) {
        keep();
        if (!(limit_ > t_.beta)) return;
      }
    }
  }

  SequenceBins best() && {
    std::erase_if(best_, [](const SequenceBin& bin) { return bin.items.empty(); });
    return std::move(best_);
  }

 private:
  double over(size_t degree, double ms, int64_t tokens) const {
    const auto ranks = static_cast<double>(t_.degrees[degree]);
    return ranks * std::max(0.0, ms - limit_) / (limit_ - t_.beta) +
           static_cast<double>(std::max<int64_t>(0, tokens - t_.capacity(degree))) /
               static_cast<double>(t_.tokens_per_rank);
  }
  double over(const SequenceBin& bin) const { return over(bin.degree, bin.ms, bin.tokens); }
  double work(const SequenceBin& bin, int64_t j) const { return t_.work[bin.degree][j]; }
  bool accept(double delta) { return delta <= 0 || random_.uniform() < std::exp(-delta / heat_); }
  int64_t any() { return static_cast<int64_t>(random_.below(t_.lengths.size())); }

  void lower(double ms) {
    limit_ = ms * (1 - 5e-4);
    sum();
  }
  /// Sums anew, so that no rounding gathers.
  void sum() {
    excess_ = 0;
    for (size_t b = 0; b < bins_.size(); ++b) {
      SequenceBin& bin = bins_[b];
      bin.ms = t_.beta;
      for (const int64_t j : bin.items) bin.ms += work(bin, j), where_[j] = b;
      excess_ += over(bin);
    }
  }
  void keep() {
    sum();
    if (excess_ > 0) return;
    best_ = bins_;
    double most = 0;
    for (const SequenceBin& bin : bins_) most = std::max(most, bin.items.empty() ? 0 : bin.ms);
    lower(most);
  }

  void take(SequenceBin& bin, int64_t j) {
    *std::ranges::find(bin.items, j) = bin.items.back();
    bin.items.pop_back();
    bin.tokens -= t_.lengths[j];
    bin.ms -= work(bin, j);
  }
  void put(SequenceBin& bin, int64_t j) {
    bin.items.push_back(j);
    bin.tokens += t_.lengths[j];
    bin.ms += work(bin, j);
  }

  /// A sequence, rather of a group that is over.
  int64_t pick() {
    int64_t j = any();
    for (int attempt = 0; attempt < 3 && over(bins_[where_[j]]) == 0; ++attempt) j = any();
    return j;
  }

  void move() {
    const int64_t j = pick();
    const size_t a = where_[j], b = random_.below(bins_.size());
    if (a == b) return;
    SequenceBin &from = bins_[a], &to = bins_[b];
    const double delta = over(from.degree, from.ms - work(from, j), from.tokens - t_.lengths[j]) - over(from) +
                         over(to.degree, to.ms + work(to, j), to.tokens + t_.lengths[j]) - over(to);
    if (!accept(delta)) return;
    excess_ += delta;
    take(from, j);
    put(to, j);
    where_[j] = b;
  }

  void swap() {
    const int64_t j = pick(), i = any();
    const size_t a = where_[j], b = where_[i];
    if (a == b || t_.lengths[i] == t_.lengths[j]) return;
    SequenceBin &from = bins_[a], &to = bins_[b];
    const int64_t more = t_.lengths[i] - t_.lengths[j];
    const double delta = over(from.degree, from.ms - work(from, j) + work(from, i), from.tokens + more) - over(from) +
                         over(to.degree, to.ms + work(to, j) - work(to, i), to.tokens - more) - over(to);
    if (!accept(delta)) return;
    excess_ += delta;
    take(from, j);
    take(to, i);
    put(to, j);
    put(from, i);
    std::swap(where_[i], where_[j]);
  }

  /// Other degrees that take exactly these ranks, wide ones rather; empty where chance finds none.
  SequenceBins pieces(int64_t ranks, bool narrower) {
    SequenceBins out;
    for (bool first = true; ranks > 0; first = false) {
      size_t fit = 0;
      while (fit < t_.degrees.size() && t_.degrees[fit] <= ranks) ++fit;
      if (fit == 0 || out.size() == kMostPieces) return {};
      const size_t back = random_.below(2) + (first && narrower ? 1 : 0);
      const size_t p = fit - 1 - std::min(fit - 1, back);
      out.push_back({p, t_.beta, 0, {}});
      ranks -= t_.degrees[p];
    }
    return out;
  }

  /// One or two groups become groups of other degrees on the same ranks, longest sequences first.
  void regroup() {
    const size_t a = random_.below(bins_.size()), other = random_.below(bins_.size());
    const size_t b = random_.chance(0.5) ? a : other;
    std::vector<int64_t> items = bins_[a].items;
    int64_t ranks = t_.degrees[bins_[a].degree];
    double delta = -over(bins_[a]);
    if (b != a) {
      items.insert(items.end(), bins_[b].items.begin(), bins_[b].items.end());
      ranks += t_.degrees[bins_[b].degree];
      delta -= over(bins_[b]);
    }
    SequenceBins made = pieces(ranks, a == b);
    if (made.empty()) return;
    std::ranges::sort(items, [&](int64_t x, int64_t y) {
      return t_.lengths[x] != t_.lengths[y] ? t_.lengths[x] > t_.lengths[y] : x < y;
    });
    for (const int64_t j : items)
      put(*std::ranges::min_element(made, {},
                                    [&](const SequenceBin& bin) {
                                      const double ms = bin.ms + work(bin, j);
                                      const int64_t tokens = bin.tokens + t_.lengths[j];
                                      return over(bin.degree, ms, tokens) - over(bin) +
                                             1e-3 * (ms / limit_ + static_cast<double>(tokens) /
                                                                       static_cast<double>(t_.capacity(bin.degree)));
                                    }),
          j);
    for (const SequenceBin& bin : made) delta += over(bin);
    if (!accept(delta)) return;
    excess_ += delta;
    if (b != a) bins_.erase(bins_.begin() + static_cast<long>(std::max(a, b)));
    bins_[std::min(a, b)] = std::move(made.front());
    for (size_t i = 1; i < made.size(); ++i) bins_.push_back(std::move(made[i]));
    for (size_t at = 0; at < bins_.size(); ++at) {
      for (const int64_t j : bins_[at].items) where_[j] = at;
    }
  }

  const SequenceTable& t_;
  RandomStream& random_;
  SequenceBins best_, bins_;
  std::vector<size_t> where_;  // of each sequence: its group in bins_
  double limit_ = 0, excess_ = 0, heat_ = 0;
};

}  // namespace

SequenceBins anneal_packing(const SequenceTable& table, const SequenceBins& bins, RandomStream& random,
                            int64_t trials) {
  SequenceAnnealer annealer(table, bins, random);
  for (int cycle = 0; cycle < kCycles; ++cycle) annealer.run(trials / kCycles);
  return std::move(annealer).best();
}

}  // namespace unigrpo::planner
