#include "planner/choose.h"

#include <algorithm>
#include <cmath>

#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

/// Cost to go under a price of memory: go[i][s] = least of time + price * memory over layers i + 1 .., i having s.
///
///   go[i][s] = min_r ( transition[s][r] + time[i+1][r] + price mem[i+1][r] + go[i+1][r] )
///
/// so that for every way to end:  cost so far + go[i][s] - price * (budget - memory so far)  is a lower bound.
struct Dual {
  double price = 0;
  std::vector<double> go;  // [layer x strategy]
  double bound = 0;        // on the whole
  std::vector<int64_t> path;
};

class Chooser {
 public:
  explicit Chooser(const ChooseProblem& problem)
      : p_(problem),
        layers_(static_cast<int64_t>(problem.layers.size())),
        kinds_(static_cast<int64_t>(problem.time.front().size())) {}

  std::optional<Choice> run() {
    if (layers_ == 0) return Choice{};
    if (least_memory() > p_.budget) return std::nullopt;
    find_duals();
    if (best_.cost <= lower_bound_ || !std::isfinite(best_.cost)) {
      if (std::isfinite(best_.cost)) return best_;
    }
    // States whose bound exceeds a guess of the optimum are dropped; the guess rises until a choice is found. What is
    // found is optimal: every state of a better choice has a bound below that.
    const double width = std::isfinite(best_.cost) ? best_.cost - lower_bound_ : std::abs(lower_bound_) + 1;
    for (double step = width / 1024;; step *= 3) {
      const bool last = step >= width && std::isfinite(best_.cost);
      const double limit = last ? best_.cost : lower_bound_ + step;
      if (sweep(limit)) return best_;
      if (last || step > 1e300) return best_;
    }
  }

 private:
  const std::vector<std::vector<double>>& transition(int64_t layer) const {
    return p_.transition[p_.transition.size() == 1 ? 0 : p_.layers[layer]];
  }
  double time(int64_t layer, int64_t s) const { return p_.time[p_.layers[layer]][s]; }
  int64_t memory(int64_t layer, int64_t s) const { return p_.memory[p_.layers[layer]][s]; }

  int64_t least_memory() {
    rest_.assign(layers_ + 1, 0);
    for (int64_t i = layers_ - 1; i >= 0; --i) {
      rest_[i] = rest_[i + 1] + *std::ranges::min_element(p_.memory[p_.layers[i]]);
    }
    return rest_[0];
  }

  Dual dual_of(double price) const {
    Dual dual{.price = price, .go = std::vector<double>(layers_ * kinds_, 0), .bound = 0, .path = {}};
    std::vector<int64_t> next(layers_ * kinds_, 0);
    for (int64_t i = layers_ - 2; i >= 0; --i) {
      const auto& change = transition(i + 1);
      for (int64_t s = 0; s < kinds_; ++s) {
        double least = kInfinity;
        for (int64_t r = 0; r < kinds_; ++r) {
          const double cost = change[s][r] + time(i + 1, r) + price * static_cast<double>(memory(i + 1, r)) +
                              dual.go[(i + 1) * kinds_ + r];
          if (cost < least) least = cost, next[i * kinds_ + s] = r;
        }
        dual.go[i * kinds_ + s] = least;
      }
    }
    double least = kInfinity;
    int64_t at = 0;
    for (int64_t s = 0; s < kinds_; ++s) {
      const double cost = time(0, s) + price * static_cast<double>(memory(0, s)) + dual.go[s];
      if (cost < least) least = cost, at = s;
    }
    dual.bound = least - price * static_cast<double>(p_.budget);
    for (int64_t i = 0; i < layers_; ++i) {
      dual.path.push_back(at);
      at = next[i * kinds_ + at];
    }
    return dual;
  }

  /// Takes the path as the best choice so far if it fits and is cheaper; returns whether it fits.
  bool offer(const std::vector<int64_t>& path) {
    int64_t used = 0;
    for (int64_t i = 0; i < layers_; ++i) used += memory(i, path[i]);
    if (used > p_.budget) return false;
    const double cost = choice_cost(p_, path);
    if (cost < best_.cost) best_ = {path, cost, used};
    return true;
  }

  void keep(Dual dual) {
    lower_bound_ = std::max(lower_bound_, dual.bound);
    duals_.push_back(std::move(dual));
    // The first, without a price, stays: in the end it alone says the time itself.
    std::stable_sort(duals_.begin() + 1, duals_.end(), [](const Dual& a, const Dual& b) { return a.bound > b.bound; });
    if (duals_.size() > 6) duals_.pop_back();
  }

  /// Bisects the price at which the cheapest path just fits.
  void find_duals() {
    best_.cost = kInfinity;
    lower_bound_ = -kInfinity;
    Dual free = dual_of(0);
    const bool fits = offer(free.path);
    keep(std::move(free));
    if (fits) return;
    double low = 0, high = 1e-6;
    for (; high < 1e18; high *= 8) {
      Dual dual = dual_of(high);
      const bool enough = offer(dual.path);
      keep(std::move(dual));
      if (enough) break;
      low = high;
    }
    for (int round = 0; round < 48; ++round) {
      const double price = (low + high) / 2;
      Dual dual = dual_of(price);
      (offer(dual.path) ? high : low) = price;
      keep(std::move(dual));
    }
  }

  struct State {
    int64_t memory;
    double time;
    int64_t former;  // state of the layer before
    int64_t strategy;
  };

  /// Whether the lower bound on every choice through this state of layer i exceeds a limit.
  bool exceeds(int64_t i, const State& state, double limit) const {
    const auto left = static_cast<double>(p_.budget - state.memory);
    return std::ranges::any_of(tightest_first_, [&](const Dual* dual) {
      return state.time + dual->go[i * kinds_ + state.strategy] - dual->price * left > limit;
    });
  }

  /// Drops what another state of the same strategy has with no more memory and no more time.
  static void pareto(std::vector<State>& states) {
    std::ranges::stable_sort(states, [](const State& a, const State& b) {
      return a.memory != b.memory ? a.memory < b.memory : a.time < b.time;
    });
    double least = kInfinity;
    std::erase_if(states, [&](const State& state) {
      if (state.time >= least) return true;
      least = state.time;
      return false;
    });
  }

  /// One pass over the layers with states of a bound up to `limit`; true where it ends in a choice.
  bool sweep(double limit) {
    tightest_first_.clear();
    for (size_t d = 1; d <= duals_.size(); ++d) tightest_first_.push_back(&duals_[d % duals_.size()]);
    const double slack = 1e-12 * (std::abs(limit) + 1);  // rounding of sums taken in another order
    std::vector<std::vector<State>> all(layers_);
    std::vector<std::vector<State>> fresh(kinds_);
    for (int64_t i = 0; i < layers_; ++i) {
      for (auto& list : fresh) list.clear();
      const auto extend = [&](int64_t former, int64_t s) {
        const State* state = former < 0 ? nullptr : &all[i - 1][former];
        const State next{(state ? state->memory : 0) + memory(i, s),
                         (state ? state->time + transition(i)[state->strategy][s] : 0) + time(i, s), former, s};
        if (next.memory + rest_[i + 1] <= p_.budget && !exceeds(i, next, limit + slack)) fresh[s].push_back(next);
      };
      const auto formers = i == 0 ? 0 : static_cast<int64_t>(all[i - 1].size());
      for (int64_t s = 0; s < kinds_; ++s) {
        if (i == 0) extend(-1, s);
        for (int64_t former = 0; former < formers; ++former) extend(former, s);
        pareto(fresh[s]);
        all[i].insert(all[i].end(), fresh[s].begin(), fresh[s].end());
      }
      if (all[i].empty()) return false;
    }
    const auto last = std::ranges::min_element(all.back(), {}, &State::time);
    std::vector<int64_t> path(layers_);
    int64_t at = last - all.back().begin();
    for (int64_t i = layers_ - 1; i >= 0; --i) {
      path[i] = all[i][at].strategy;
      at = all[i][at].former;
    }
    offer(path);
    return true;
  }

  const ChooseProblem& p_;
  const int64_t layers_, kinds_;
  std::vector<int64_t> rest_;  // least memory of layers i ..
  std::vector<Dual> duals_;
  std::vector<const Dual*> tightest_first_;
  Choice best_;
  double lower_bound_ = -kInfinity;
};

}  // namespace

double choice_cost(const ChooseProblem& problem, const std::vector<int64_t>& strategies) {
  double cost = 0;
  for (size_t i = 0; i < strategies.size(); ++i) {
    const int64_t type = problem.layers[i];
    cost += problem.time[type][strategies[i]];
    if (i > 0) cost += problem.transition[problem.transition.size() == 1 ? 0 : type][strategies[i - 1]][strategies[i]];
  }
  return cost;
}

std::optional<Choice> choose_strategies(const ChooseProblem& problem) { return Chooser(problem).run(); }

}  // namespace unigrpo::planner
