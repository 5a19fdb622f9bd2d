#include "planner/wave_search.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/rng.h"
#include "base/text.h"
#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

bool ready(const WaveShape& shape, const RemainingLayers& left, size_t m) {
  if (left[m] == 0) return false;
  return std::ranges::all_of(shape.ops[m].deps, [&](size_t dep) { return left[dep] == 0; });
}

// ---- exact, for tiny graphs ----

constexpr double kExactStates = 200'000;

/// Every wave from every state that may still be the best, shortest paths over what is left.
class ExactWaves {
 public:
  ExactWaves(const WaveShape& shape, int64_t most_steps) : s_(shape), steps_(most_steps) {
    for (const MetaOp& op : s_.ops) {
      stride_.push_back(states_);
      states_ *= op.layers + 1;
    }
  }

  /// Nothing where the steps do not suffice.
  std::optional<std::vector<Wave>> run() {
    best_.assign(states_, kInfinity);
    step_.resize(states_);
    best_[0] = 0;
    RemainingLayers left(s_.ops.size(), 0);
    for (int64_t state = 1; state < states_; ++state) {
      if (steps_ < 0) return std::nullopt;
      int64_t rest = state;
      for (size_t m = 0; m < left.size(); ++m) {
        left[m] = rest % (s_.ops[m].layers + 1);
        rest /= s_.ops[m].layers + 1;
      }
      state_ = state;
      Wave wave;
      extend(left, 0, s_.num_ranks, 0, state, wave);
    }
    if (steps_ < 0) return std::nullopt;
    std::vector<Wave> waves;
    for (int64_t state = states_ - 1; state != 0;) {
      waves.push_back(step_[state]);
      for (const WavePiece& piece : step_[state]) state -= stride_[piece.op] * piece.layers;
    }
    return waves;
  }

 private:
  void extend(const RemainingLayers& left, size_t m, int64_t ranks, double ms, int64_t target, Wave& wave) {
    if (ms >= best_[state_] || --steps_ < 0) return;
    if (m == left.size()) {
      if (target != state_ && ms + best_[target] < best_[state_]) {
        best_[state_] = ms + best_[target];
        step_[state_] = wave;
      }
      return;
    }
    extend(left, m + 1, ranks, ms, target, wave);
    if (!ready(s_, left, m)) return;
    for (const WaveShape::Size& size : s_.sizes[m]) {
      if (size.ranks > ranks) break;
      for (int64_t layers = 1; layers <= left[m]; ++layers) {
        wave.push_back({m, layers, size.ranks});
        extend(left, m + 1, ranks - size.ranks, std::max(ms, real(layers) * size.ms), target - stride_[m] * layers,
               wave);
        wave.pop_back();
      }
    }
  }

  const WaveShape& s_;
  int64_t steps_, states_ = 1, state_ = 0;
  std::vector<int64_t> stride_;
  std::vector<double> best_;
  std::vector<Wave> step_;
};

// ---- a beam, for the others ----

struct State {
  RemainingLayers left;
  double ms = 0, estimate = 0;  // so far; with a bound on the rest
  int64_t former = -1;          // in the pool
  Wave wave;                    // that led here
};

class Beam {
 public:
  Beam(const WaveShape& shape, const BeamEffort& effort)
      : s_(shape),
        width_(effort.width),
        tries_(effort.tries),
        most_lengths_(effort.most_lengths),
        random_(StreamKey{.seed = 20240903, .purpose = Purpose::test}) {}

  std::vector<Wave> run() {
    State start;
    for (const MetaOp& op : s_.ops) start.left.push_back(op.layers);
    std::vector<int64_t> front = {add(std::move(start))};
    int64_t best = -1;
    while (!front.empty()) {
      std::map<RemainingLayers, State> next;
      for (const int64_t at : front) expand(at, next);
      std::vector<State> found;
      for (auto& [left, state] : next) {
        state.estimate = state.ms + rest_bound(s_, left);
        if (best < 0 || state.estimate < pool_[best].ms) found.push_back(std::move(state));
      }
      std::ranges::stable_sort(found, {}, &State::estimate);
      front.clear();
      for (State& state : found) {
        const bool finished = std::ranges::all_of(state.left, [](int64_t n) { return n == 0; });
        if (finished) {
          if (best < 0 || state.ms < pool_[best].ms) best = add(std::move(state));
        } else if (front.size() < width_) {
          front.push_back(add(std::move(state)));
        }
      }
    }
    std::vector<Wave> waves;
    for (int64_t at = best; pool_[at].former >= 0; at = pool_[at].former) waves.push_back(pool_[at].wave);
    std::ranges::reverse(waves);
    return waves;
  }

 private:
  int64_t add(State&& state) {
    pool_.push_back(std::move(state));
    return std::ssize(pool_) - 1;
  }

  struct Wish {
    size_t op;
    double ranks;  // real
    double time;   // until it must be done for what follows
  };

  // Ready ops end so that the longest path after each ends together: n_m with v(n_m) = left / (C - tail), C least with
  // sum n_m <= N.
  std::vector<Wish> wishes(const RemainingLayers& left) const {
    std::vector<size_t> ops;
    double low = 0;
    for (size_t m = 0; m < left.size(); ++m) {
      if (!ready(s_, left, m)) continue;
      ops.push_back(m);
      low = std::max(low, s_.tail[m] + real(left[m]) * s_.quickest[m]);
    }
    const auto ranks_at = [&](double c, size_t m) {
      return s_.speeds[m].ranks_for(real(left[m]) / std::max(c - s_.tail[m], 1e-9));
    };
    const auto needed = [&](double c) {
      double sum = 0;
      for (const size_t m : ops) sum += ranks_at(c, m);
      return sum;
    };
    double c = low * (1 + 1e-9);
    if (needed(c) > real(s_.num_ranks)) {
      double high = 2 * c;
      while (needed(high) > real(s_.num_ranks)) high *= 2;
      for (int round = 0; round < 24; ++round) {
        const double middle = (c + high) / 2;
        (needed(middle) > real(s_.num_ranks) ? c : high) = middle;
      }
      c = high;
    }
    std::vector<Wish> out;
    for (const size_t m : ops) out.push_back({m, ranks_at(c, m), c - s_.tail[m]});
    return out;
  }

  // What a wave of length `length` should hold: of every ready op a size n and the layers l that end in time, such that
  // the ranks suffice and the value sum l * worth is largest. A knapsack over ranks:
  //
  //   best[c] = max over (n, l) of best[c - n] + l worth_m,   op by op
  Wave best_wave(const RemainingLayers& left, const std::vector<Wish>& wish, const std::vector<double>& worth,
                 double length) {
    const auto width = static_cast<size_t>(s_.num_ranks) + 1;
    std::vector<double> best(width, 0), next;
    std::vector<std::vector<int32_t>> taken(wish.size(), std::vector<int32_t>(width, -1));
    for (size_t i = 0; i < wish.size(); ++i) {
      const auto& sizes = s_.sizes[wish[i].op];
      next = best;
      for (size_t at = 0; at < sizes.size(); ++at) {
        const int64_t layers = layers_within(left, wish[i].op, at, length);
        if (layers == 0) continue;
        const double value = static_cast<double>(layers) * worth[i];
        const auto n = static_cast<size_t>(sizes[at].ranks);
        for (size_t c = n; c < width; ++c) {
          if (best[c - n] + value > next[c] + 1e-12)
            next[c] = best[c - n] + value, taken[i][c] = static_cast<int32_t>(at);
        }
        if (layers == left[wish[i].op]) break;  // more ranks would do no more
      }
      std::swap(best, next);
    }
    Wave wave;
    size_t c = width - 1;
    for (size_t i = wish.size(); i-- > 0;) {
      if (taken[i][c] < 0) continue;
      const WaveShape::Size& size = s_.sizes[wish[i].op][static_cast<size_t>(taken[i][c])];
      wave.push_back(
          {wish[i].op, layers_within(left, wish[i].op, static_cast<size_t>(taken[i][c]), length), size.ranks});
      c -= static_cast<size_t>(size.ranks);
    }
    std::ranges::reverse(wave);
    return wave;
  }

  int64_t layers_within(const RemainingLayers& left, size_t op, size_t at, double length) const {
    return std::min(left[op], static_cast<int64_t>(length / s_.sizes[op][at].ms * (1 + 1e-9)));
  }

  void expand(int64_t at, std::map<RemainingLayers, State>& next) {
    const RemainingLayers left = pool_[at].left;
    const double so_far = pool_[at].ms;
    const std::vector<Wish> wish = wishes(left);
    const std::vector<double> lengths = lengths_of(left, wish);
    std::vector<double> worth(wish.size());
    for (int64_t attempt = 0; attempt < tries_; ++attempt) {
      // A layer is worth the rank-ms that it takes where all ends together; the first attempt is without chance.
      for (size_t i = 0; i < wish.size(); ++i) {
        worth[i] = wish[i].ranks * wish[i].time / static_cast<double>(left[wish[i].op]);
        if (attempt > 0) worth[i] *= std::exp(0.25 * random_.normal());
      }
      for (const double length : lengths) {
        State state{
            .left = left, .ms = so_far, .estimate = 0, .former = at, .wave = best_wave(left, wish, worth, length)};
        if (state.wave.empty()) continue;
        for (const WavePiece& piece : state.wave) state.left[piece.op] -= piece.layers;
        state.ms += wave_ms(s_.ops, state.wave);
        const auto [place, fresh] = next.try_emplace(state.left, state);
        if (!fresh && state.ms < place->second.ms) place->second = std::move(state);
      }
    }
  }

  /// Where a wave may be cut: at the end of an op on about its ranks, and at parts of that.
  std::vector<double> lengths_of(const RemainingLayers& left, const std::vector<Wish>& wish) {
    std::vector<double> out;
    for (const Wish& w : wish) {
      const auto& sizes = s_.sizes[w.op];
      size_t at = 0;
      while (at + 1 < sizes.size() && real(sizes[at + 1].ranks) <= w.ranks + 1e-9) ++at;
      for (size_t k = at; k < std::min(at + 2, sizes.size()); ++k) {
        for (int64_t parts = 1; parts <= 4; ++parts) {
          const int64_t layers = (left[w.op] + parts - 1) / parts;
          out.push_back(real(layers) * sizes[k].ms);
        }
      }
    }
    std::ranges::sort(out);
    out.erase(std::unique(out.begin(), out.end(), [](double a, double b) { return b - a < 1e-9 * b; }), out.end());
    const size_t most = most_lengths_;
    if (out.size() > most) {  // spread over all, the shortest and the longest among them
      std::vector<double> some;
      for (size_t i = 0; i < most; ++i) some.push_back(out[i * (out.size() - 1) / (most - 1)]);
      out = std::move(some);
    }
    return out;
  }

  const WaveShape& s_;
  size_t width_;
  int64_t tries_;
  size_t most_lengths_;
  RandomStream random_;
  std::vector<State> pool_;
};

}  // namespace

WaveShape::WaveShape(const std::vector<MetaOp>& given, int64_t ranks) : ops(given), num_ranks(ranks) {
  const std::vector<size_t> order = order_of(ops);
  users.resize(ops.size());
  for (size_t m = 0; m < ops.size(); ++m) {
    auto& list = sizes.emplace_back();
    std::map<int64_t, double> usable;
    for (const auto& [n, ms] : ops[m].ms) {
      if (n >= 1 && n <= ranks) list.push_back({n, ms}), usable[n] = ms;
    }
    if (list.empty()) throw BadInput("{} runs on no number of ranks up to {}", in_quotes(ops[m].name), ranks);
    speeds.emplace_back(usable);
    double least = kInfinity;
    for (const auto& size : list) least = std::min(least, size.ms);
    quickest.push_back(least);
    for (const size_t dep : ops[m].deps) users[dep].push_back(m);
  }
  tail.assign(ops.size(), 0);
  for (size_t i = order.size(); i-- > 0;) {
    for (const size_t user : users[order[i]]) {
      tail[order[i]] = std::max(tail[order[i]], tail[user] + real(ops[user].layers) * quickest[user]);
    }
  }
}

double rest_bound(const WaveShape& shape, const RemainingLayers& left) {
  double path = 0;
  for (size_t m = 0; m < left.size(); ++m) {
    if (left[m] > 0) path = std::max(path, real(left[m]) * shape.quickest[m] + shape.tail[m]);
  }
  const auto needed = [&](double c) {
    double sum = 0;
    for (size_t m = 0; m < left.size(); ++m) {
      if (left[m] > 0) sum += shape.speeds[m].ranks_for(real(left[m]) / c);
    }
    return sum;
  };
  if (path == 0 || needed(path) <= real(shape.num_ranks)) return path;
  double low = path, high = path * 2;
  while (needed(high) > real(shape.num_ranks)) low = high, high *= 2;
  for (int round = 0; round < 20; ++round) {
    const double middle = (low + high) / 2;
    (needed(middle) > real(shape.num_ranks) ? low : high) = middle;
  }
  return low;
}

std::optional<std::vector<Wave>> exact_waves(const WaveShape& shape, int64_t most_steps) {
  double states = 1;
  for (const MetaOp& op : shape.ops) states *= real(op.layers + 1);
  return states <= kExactStates ? ExactWaves(shape, most_steps).run() : std::nullopt;
}

std::vector<Wave> beam_waves(const WaveShape& shape, const BeamEffort& effort) { return Beam(shape, effort).run(); }

}  // namespace unigrpo::planner
