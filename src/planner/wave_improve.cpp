#include <algorithm>

#include "planner/numbers.h"
#include "planner/wave_search.h"

namespace unigrpo::planner {
namespace {

constexpr int64_t kWindows = 100;  // that are planned anew at most
constexpr int64_t kWindowSteps = 100'000;

/// Moves layers of a wave's longest piece into other waves where that op, or idle ranks for it, are.
class Shifter {
 public:
  Shifter(const WaveShape& shape, std::vector<Wave>& waves) : s_(shape), waves_(waves) {}

  void run() {
    for (int round = 0; round < 40; ++round) {
      bool moved = false;
      for (size_t w = 0; w < waves_.size(); ++w) moved = shift_from(w) || moved;
      if (!moved) return;
    }
  }

 private:
  struct Span {
    size_t first, last;
  };
  /// Waves between which an op may run: after what it needs, before what needs it.
  Span span_of(size_t op) const {
    Span span{0, waves_.size()};
    for (size_t w = 0; w < waves_.size(); ++w) {
      for (const WavePiece& piece : waves_[w]) {
        if (std::ranges::find(s_.ops[op].deps, piece.op) != s_.ops[op].deps.end())
          span.first = std::max(span.first, w + 1);
        if (std::ranges::find(s_.users[op], piece.op) != s_.users[op].end()) span.last = std::min(span.last, w);
      }
    }
    return span;
  }

  bool shift_from(size_t w) {
    const double before = wave_ms(s_.ops, waves_[w]);
    for (size_t i = 0; i < waves_[w].size(); ++i) {
      const WavePiece piece = waves_[w][i];
      if (real(piece.layers) * s_.ops[piece.op].ms.at(piece.ranks) < before * (1 - 1e-9)) continue;
      const Span span = span_of(piece.op);
      for (int64_t layers = 1; layers <= piece.layers; ++layers) {
        for (size_t to = span.first; to < span.last; ++to) {
          if (to != w && try_shift(w, i, layers, to)) return true;
        }
      }
    }
    return false;
  }

  bool try_shift(size_t w, size_t i, int64_t layers, size_t to) {
    const Wave from_before = waves_[w], to_before = waves_[to];
    const double before = wave_ms(s_.ops, from_before) + wave_ms(s_.ops, to_before);
    const size_t op = from_before[i].op;
    int64_t idle = s_.num_ranks;
    for (const WavePiece& piece : to_before) idle -= piece.ranks;
    waves_[w][i].layers -= layers;
    if (waves_[w][i].layers == 0) waves_[w].erase(waves_[w].begin() + static_cast<long>(i));
    const auto there = std::ranges::find(to_before, op, &WavePiece::op);
    const auto better = [&] { return wave_ms(s_.ops, waves_[w]) + wave_ms(s_.ops, waves_[to]) < before * (1 - 1e-12); };
    if (there != to_before.end()) {
      waves_[to][there - to_before.begin()].layers += layers;
      if (better()) return true;
    } else {
      for (const WaveShape::Size& size : s_.sizes[op]) {
        if (size.ranks > idle) break;
        waves_[to] = to_before;
        waves_[to].push_back({op, layers, size.ranks});
        if (better()) return true;
      }
    }
    waves_[w] = from_before;
    waves_[to] = to_before;
    return false;
  }

  const WaveShape& s_;
  std::vector<Wave>& waves_;
};

/// Plans windows of neighbouring waves anew: what runs in them, with a beam of its own.
class WindowRefiner {
 public:
  WindowRefiner(const WaveShape& shape, std::vector<Wave>& waves) : s_(shape), waves_(waves) {}

  void run(int64_t most_windows) {
    for (bool better = true; better && most_windows > 0;) {
      better = false;
      for (const size_t width : {4, 7, 11}) {
        for (size_t first = 0; first < waves_.size() && most_windows-- > 0; first += (width + 1) / 2) {
          better = refine(first, std::min(width, waves_.size() - first)) || better;
        }
      }
    }
  }

 private:
  bool refine(size_t first, size_t count) {
    if (count < 2) return false;
    const auto begin = waves_.begin() + static_cast<long>(first), end = begin + static_cast<long>(count);
    std::vector<int64_t> layers(s_.ops.size(), 0);
    double before = 0;
    for (auto wave = begin; wave != end; ++wave) {
      before += wave_ms(s_.ops, *wave);
      for (const WavePiece& piece : *wave) layers[piece.op] += piece.layers;
    }
    std::vector<MetaOp> ops;
    std::vector<size_t> index(s_.ops.size(), s_.ops.size()), back;
    for (size_t m = 0; m < layers.size(); ++m) {
      if (layers[m] == 0) continue;
      index[m] = back.size();
      back.push_back(m);
      ops.push_back({.name = s_.ops[m].name, .layers = layers[m], .ms = s_.ops[m].ms, .deps = {}});
    }
    for (size_t i = 0; i < back.size(); ++i) {
      for (const size_t dep : s_.ops[back[i]].deps) {
        if (index[dep] < s_.ops.size()) ops[i].deps.push_back(index[dep]);
      }
    }
    const WaveShape part(ops, s_.num_ranks);
    std::optional<std::vector<Wave>> exact = exact_waves(part, kWindowSteps);
    std::vector<Wave> fresh = exact ? std::move(*exact) : beam_waves(part, {.width = 7, .tries = 2, .most_lengths = 8});
    merge_repeats(fresh);
    Shifter(part, fresh).run();
    std::erase_if(fresh, [](const Wave& wave) { return wave.empty(); });
    if (total_ms(ops, fresh) >= before * (1 - 1e-9)) return false;
    for (Wave& wave : fresh) {
      for (WavePiece& piece : wave) piece.op = back[piece.op];
    }
    waves_.erase(begin, end);
    waves_.insert(waves_.begin() + static_cast<long>(first), fresh.begin(), fresh.end());
    return true;
  }

  const WaveShape& s_;
  std::vector<Wave>& waves_;
};

}  // namespace

void merge_repeats(std::vector<Wave>& waves) {
  const auto same = [](const Wave& a, const Wave& b) {
    return std::ranges::equal(
        a, b, [](const WavePiece& x, const WavePiece& y) { return x.op == y.op && x.ranks == y.ranks; });
  };
  for (size_t w = 0; w + 1 < waves.size();) {
    if (same(waves[w], waves[w + 1])) {
      for (size_t i = 0; i < waves[w].size(); ++i) waves[w][i].layers += waves[w + 1][i].layers;
      waves.erase(waves.begin() + static_cast<long>(w) + 1);
    } else {
      ++w;
    }
  }
}

double total_ms(const std::vector<MetaOp>& ops, const std::vector<Wave>& waves) {
  double sum = 0;
  for (const Wave& wave : waves) sum += wave_ms(ops, wave);
  return sum;
}

void improve_waves(const WaveShape& shape, std::vector<Wave>& waves) {
  merge_repeats(waves);
  Shifter(shape, waves).run();
  std::erase_if(waves, [](const Wave& wave) { return wave.empty(); });
  WindowRefiner(shape, waves).run(kWindows);
  for (Wave& wave : waves) std::ranges::sort(wave, {}, &WavePiece::op);
  merge_repeats(waves);
}

}  // namespace unigrpo::planner
