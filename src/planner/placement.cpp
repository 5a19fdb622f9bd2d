#include "planner/placement.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "base/text.h"
#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

constexpr int64_t kMovesPerPiece = 4000;  // of an annealing
constexpr double kExactNodes = 3e6;       // arrangements that are looked at one by one

void check(const PlacementProblem& p) {
  std::vector<int64_t> wave_of(p.pieces.size(), -1);
  for (size_t w = 0; w < p.waves.size(); ++w) {
    int64_t used = 0;
    for (const size_t piece : p.waves[w]) {
      used += p.pieces[piece].ranks;
      wave_of[piece] = static_cast<int64_t>(w);
      for (const auto& flow : p.pieces[piece].inputs) {
        if (wave_of[flow.from] < 0 || wave_of[flow.from] == static_cast<int64_t>(w)) {
          throw BadInput("piece {} takes from {}, which runs no earlier", in_quotes(p.pieces[piece].name),
                         in_quotes(p.pieces[flow.from].name));
        }
      }
    }
    if (used > p.ranks) throw BadInput("wave {} needs {} ranks of {}", w, used, p.ranks);
  }
}

/// Prices of flows by the two first ranks, computed when asked for the first time.
class FlowTable {
 public:
  explicit FlowTable(const PlacementProblem& problem) : p_(problem) {
    for (size_t piece = 0; piece < p_.pieces.size(); ++piece) {
      for (const auto& flow : p_.pieces[piece].inputs) {
        const auto index = static_cast<int64_t>(flows_.size());
        flows_.push_back({flow.from, piece, flow.mb});
        of_piece_.resize(p_.pieces.size());
        of_piece_[piece].push_back(index);
        of_piece_[flow.from].push_back(index);
      }
    }
    of_piece_.resize(p_.pieces.size());
    prices_.assign(flows_.size(), std::vector<double>(p_.ranks * p_.ranks, -1));
  }

  double price(int64_t flow, const std::vector<int64_t>& start) {
    const auto& [from, to, mb] = flows_[flow];
    double& known = prices_[flow][start[from] * p_.ranks + start[to]];
    if (known < 0) known = flow_ms(p_, mb, p_.pieces[from].ranks, start[from], p_.pieces[to].ranks, start[to]);
    return known;
  }
  double total(const std::vector<int64_t>& start) {
    double sum = 0;
    for (int64_t flow = 0; flow < std::ssize(flows_); ++flow) sum += price(flow, start);
    return sum;
  }
  /// Of the flows of some pieces, each once.
  double around(const std::vector<size_t>& pieces, const std::vector<int64_t>& start) {
    double sum = 0;
    ++stamp_;
    seen_.resize(flows_.size(), 0);
    for (const size_t piece : pieces) {
      for (const int64_t flow : of_piece_[piece]) {
        if (seen_[flow] == stamp_) continue;
        seen_[flow] = stamp_;
        sum += price(flow, start);
      }
    }
    return sum;
  }
  double inputs(size_t piece, const std::vector<int64_t>& start) {
    double sum = 0;
    for (const int64_t flow : of_piece_[piece]) {
      if (flows_[flow].to == piece) sum += price(flow, start);
    }
    return sum;
  }

 private:
  struct Flow {
    size_t from, to;
    double mb;
  };
  const PlacementProblem& p_;
  std::vector<Flow> flows_;
  std::vector<std::vector<int64_t>> of_piece_;
  std::vector<std::vector<double>> prices_;
  std::vector<int64_t> seen_;
  int64_t stamp_ = 0;
};

/// What each rank holds: how many pieces of each op, and their weights' sum.
class Load {
 public:
  explicit Load(const PlacementProblem& problem)
      : p_(problem), count_(problem.ranks * problem.weight_mb.size(), 0), mb_(problem.ranks, 0) {}

  void add(size_t piece, int64_t start) {
    for (int64_t r = start; r < start + p_.pieces[piece].ranks; ++r) {
      if (count(r, piece)++ == 0) mb_[r] += weight(piece);
    }
  }
  void remove(size_t piece, int64_t start) {
    for (int64_t r = start; r < start + p_.pieces[piece].ranks; ++r) {
      if (--count(r, piece) == 0) mb_[r] -= weight(piece);
    }
  }
  double most() const { return *std::ranges::max_element(mb_); }
  /// Sum over ranks of what is over the memory.
  double over(double memory) const {
    double sum = 0;
    for (const double mb : mb_) sum += std::max(0.0, mb - memory);
    return sum;
  }

 private:
  int& count(int64_t rank, size_t piece) { return count_[rank * p_.weight_mb.size() + p_.pieces[piece].op]; }
  double weight(size_t piece) const { return p_.weight_mb[p_.pieces[piece].op]; }
  const PlacementProblem& p_;
  std::vector<int> count_;
  std::vector<double> mb_;
};

/// All placements, depth first over pieces, cheapest starts first; either the cost or the fullest rank is least.
class ExactPlacement {
 public:
  ExactPlacement(const PlacementProblem& problem, FlowTable& flows, bool memory_alone)
      : p_(problem), flows_(flows), memory_alone_(memory_alone), load_(problem), start_(problem.pieces.size(), 0) {
    for (const auto& wave : p_.waves) order_.insert(order_.end(), wave.begin(), wave.end());
    for (size_t w = 0; w < p_.waves.size(); ++w) wave_.insert(wave_.end(), p_.waves[w].size(), w);
  }

  static bool feasible(const PlacementProblem& p) {
    double nodes = 1;
    for (const auto& wave : p.waves) {
      // Orders of the wave's pieces, and ways to spread its idle ranks over the gaps.
      double ways = 1, idle = static_cast<double>(p.ranks);
      for (size_t i = 0; i < wave.size(); ++i) {
        ways *= static_cast<double>(i + 1);
        idle -= static_cast<double>(p.pieces[wave[i]].ranks);
      }
      for (size_t i = 1; i <= wave.size(); ++i) ways *= (idle + static_cast<double>(i)) / static_cast<double>(i);
      nodes *= ways;
    }
    return nodes <= kExactNodes * 1000;  // bounds cut most; a count ends the search in any case
  }

  /// Lower values than `incumbent` are looked for; false where the search was given up.
  bool run(double& incumbent, std::vector<int64_t>& best) {
    best_value_ = incumbent;
    extend(0, 0);
    incumbent = best_value_;
    if (!best_.empty()) best = best_;
    return nodes_ <= kExactNodes;
  }

 private:
  void extend(size_t at, double cost) {
    if (++nodes_ > kExactNodes) return;
    if (at == order_.size()) {
      best_value_ = memory_alone_ ? load_.most() : cost;
      best_ = start_;
      return;
    }
    const size_t piece = order_[at];
    std::vector<std::pair<double, int64_t>> places;
    for (int64_t s = 0; s + p_.pieces[piece].ranks <= p_.ranks; ++s) {
      if (taken(at, s)) continue;
      start_[piece] = s;
      places.emplace_back(memory_alone_ ? 0 : flows_.inputs(piece, start_), s);
    }
    std::ranges::sort(places);
    for (const auto& [price, s] : places) {
      start_[piece] = s;
      load_.add(piece, s);
      const double value = memory_alone_ ? load_.most() : cost + price;
      const bool fits = memory_alone_ || load_.most() <= p_.memory_mb * (1 + 1e-12);
      if (fits && value < best_value_ * (1 - 1e-12)) extend(at + 1, cost + price);
      load_.remove(piece, s);
    }
  }

  bool taken(size_t at, int64_t s) const {
    const int64_t end = s + p_.pieces[order_[at]].ranks;
    for (size_t i = at; i-- > 0 && wave_[i] == wave_[at];) {
      const size_t other = order_[i];
      if (s < start_[other] + p_.pieces[other].ranks && start_[other] < end) return true;
    }
    return false;
  }

  const PlacementProblem& p_;
  FlowTable& flows_;
  bool memory_alone_;
  Load load_;
  std::vector<int64_t> start_, best_;
  std::vector<size_t> order_, wave_;
  double best_value_ = kInfinity, nodes_ = 0;
};

/// Simulated annealing over the order of a wave's pieces and the gaps between them.
class PlacementAnnealer {
 public:
  PlacementAnnealer(const PlacementProblem& problem, FlowTable& flows, double memory, uint64_t seed)
      : p_(problem),
        flows_(flows),
        memory_(memory),
        random_(StreamKey{.seed = seed, .purpose = Purpose::test}),
        load_(problem) {
    for (const auto& wave : p_.waves) {
      Arrangement& arrangement = waves_.emplace_back();
      arrangement.order = wave;
      int64_t idle = p_.ranks;
      for (const size_t piece : wave) idle -= p_.pieces[piece].ranks;
      arrangement.gaps.assign(wave.size() + 1, 0);
      arrangement.gaps.back() = idle;
    }
    start_.assign(p_.pieces.size(), 0);
    for (size_t w = 0; w < waves_.size(); ++w) lay_out(w, start_);
    for (size_t piece = 0; piece < start_.size(); ++piece) load_.add(piece, start_[piece]);
  }

  struct Result {
    std::vector<int64_t> start;
    double cost = kInfinity, over = kInfinity;
  };

  Result run(int64_t moves) {
    double cost = flows_.total(start_), over = load_.over(memory_);
    Result best{start_, cost, over};
    const double heat = std::max(cost, 1.0) / 20;
    const double penalty = std::max(cost, 1.0) / std::max(memory_, 1.0);  // ms a MB over
    for (int64_t move = 0; move < moves; ++move) {
      const double share = static_cast<double>(move) / static_cast<double>(moves);
      const double temperature = heat * std::pow(1e-4, share);
      const size_t w = random_.below(waves_.size());
      const Arrangement before = waves_[w];
      if (!change(waves_[w])) continue;
      std::vector<int64_t> start = start_;
      lay_out(w, start);
      const double old_part = flows_.around(p_.waves[w], start_), new_part = flows_.around(p_.waves[w], start);
      shift(w, start_, start);
      const double new_over = load_.over(memory_);
      const double delta = new_part - old_part + penalty * (1 + 4 * share) * (new_over - over);
      if (delta <= 0 || random_.uniform() < std::exp(-delta / temperature)) {
        start_ = std::move(start);
        cost += new_part - old_part;
        over = new_over;
        if (over < best.over - 1e-9 || (over <= best.over + 1e-9 && cost < best.cost - 1e-12))
          best = {start_, cost, over};
      } else {
        shift(w, start, start_);
        waves_[w] = before;
      }
    }
    best.cost = flows_.total(best.start);
    return best;
  }

 private:
  struct Arrangement {
    std::vector<size_t> order;
    std::vector<int64_t> gaps;  // idle ranks before each piece, and after the last
  };

  void lay_out(size_t w, std::vector<int64_t>& start) const {
    int64_t at = 0;
    for (size_t i = 0; i < waves_[w].order.size(); ++i) {
      at += waves_[w].gaps[i];
      start[waves_[w].order[i]] = at;
      at += p_.pieces[waves_[w].order[i]].ranks;
    }
  }

  void shift(size_t w, const std::vector<int64_t>& from, const std::vector<int64_t>& to) {
    for (const size_t piece : p_.waves[w]) {
      if (from[piece] == to[piece]) continue;
      load_.remove(piece, from[piece]);
      load_.add(piece, to[piece]);
    }
  }

  bool change(Arrangement& a) {
    const size_t n = a.order.size();
    switch (random_.below(4)) {
      case 0: {  // two pieces change places
        if (n < 2) return false;
        const size_t i = random_.below(n), j = random_.below(n);
        if (i == j) return false;
        std::swap(a.order[i], a.order[j]);
        return true;
      }
      case 1: {  // a piece goes elsewhere in the order, with its gap
        if (n < 2) return false;
        const size_t i = random_.below(n), j = random_.below(n);
        if (i == j) return false;
        const size_t piece = a.order[i];
        a.order.erase(a.order.begin() + static_cast<long>(i));
        a.order.insert(a.order.begin() + static_cast<long>(j), piece);
        return true;
      }
      case 2: {  // idle ranks move from one gap to another
        const size_t i = random_.below(n + 1), j = random_.below(n + 1);
        if (i == j || a.gaps[i] == 0) return false;
        const auto amount = 1 + static_cast<int64_t>(random_.below(static_cast<uint64_t>(a.gaps[i])));
        a.gaps[i] -= amount;
        a.gaps[j] += amount;
        return true;
      }
      default: {  // the wave is reversed in part
        if (n < 2) return false;
        size_t i = random_.below(n), j = random_.below(n);
        if (i == j) return false;
        if (i > j) std::swap(i, j);
        std::reverse(a.order.begin() + static_cast<long>(i), a.order.begin() + static_cast<long>(j) + 1);
        std::reverse(a.gaps.begin() + static_cast<long>(i), a.gaps.begin() + static_cast<long>(j) + 2);
        return true;
      }
    }
  }

  const PlacementProblem& p_;
  FlowTable& flows_;
  double memory_;
  RandomStream random_;
  Load load_;
  std::vector<Arrangement> waves_;
  std::vector<int64_t> start_;
};

PlacementAnnealer::Result anneal(const PlacementProblem& problem, FlowTable& flows, double memory) {
  PlacementAnnealer::Result best;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const auto result =
        PlacementAnnealer(problem, flows, memory, seed).run(kMovesPerPiece * std::ssize(problem.pieces));
    if (result.over < best.over - 1e-9 || (result.over <= best.over + 1e-9 && result.cost < best.cost)) best = result;
  }
  return best;
}

}  // namespace

double flow_ms(const PlacementProblem& p, double mb, int64_t n1, int64_t s1, int64_t n2, int64_t s2) {
  double share = 0;
  const double a = 1 / static_cast<double>(n1), b = 1 / static_cast<double>(n2);
  int64_t i = 0, j = 0;
  while (i < n1 && j < n2) {
    const double low = std::max(static_cast<double>(i) * a, static_cast<double>(j) * b);
    const double high = std::min(static_cast<double>(i + 1) * a, static_cast<double>(j + 1) * b);
    const int64_t x = s1 + i, y = s2 + j;
    if (x != y && high > low) {
      share += (high - low) * (x / p.island == y / p.island ? p.intra_ms_per_mb : p.inter_ms_per_mb);
    }
    // Whichever part ends first gives way; compared in whole numbers.
    const int64_t left = (i + 1) * n2, right = (j + 1) * n1;
    if (left <= right) ++i;
    if (right <= left) ++j;
  }
  return mb * share;
}

double placement_ms(const PlacementProblem& problem, const std::vector<int64_t>& start) {
  double sum = 0;
  for (size_t piece = 0; piece < problem.pieces.size(); ++piece) {
    for (const auto& flow : problem.pieces[piece].inputs) {
      sum += flow_ms(problem, flow.mb, problem.pieces[flow.from].ranks, start[flow.from], problem.pieces[piece].ranks,
                     start[piece]);
    }
  }
  return sum;
}

double placement_mb(const PlacementProblem& problem, const std::vector<int64_t>& start) {
  Load load(problem);
  for (size_t piece = 0; piece < problem.pieces.size(); ++piece) load.add(piece, start[piece]);
  return load.most();
}

std::vector<int64_t> naive_placement(const PlacementProblem& problem) {
  std::vector<int64_t> start(problem.pieces.size(), 0);
  for (const auto& wave : problem.waves) {
    int64_t at = 0;
    for (const size_t piece : wave) {
      start[piece] = at;
      at += problem.pieces[piece].ranks;
    }
  }
  return start;
}

std::optional<Placement> place_waves(const PlacementProblem& problem) {
  check(problem);
  FlowTable flows(problem);
  const PlacementAnnealer::Result found = anneal(problem, flows, problem.memory_mb);
  const bool fits = found.over <= 1e-9;
  double cost = fits ? found.cost * (1 + 1e-9) + 1e-9 : kInfinity;
  std::vector<int64_t> best = found.start;
  if (ExactPlacement::feasible(problem)) ExactPlacement(problem, flows, false).run(cost, best);
  if (!fits && cost == kInfinity) return std::nullopt;
  return Placement{best, placement_ms(problem, best)};
}

double least_placement_mb(const PlacementProblem& problem) {
  check(problem);
  FlowTable flows(problem);
  double least = placement_mb(problem, naive_placement(problem));
  std::vector<int64_t> best;
  // Below the heaviest op, and below the mean over ranks, no placement can be.
  for (int round = 0; round < 12; ++round) {
    const PlacementAnnealer::Result found = anneal(problem, flows, least * (1 - 1e-9) - 1e-9);
    const double mb = placement_mb(problem, found.start);
    if (mb >= least) break;
    least = mb;
  }
  if (ExactPlacement::feasible(problem)) ExactPlacement(problem, flows, true).run(least, best);
  return least;
}

}  // namespace unigrpo::planner
