#include "planner/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace unigrpo::planner {
namespace {

PlacementProblem random_problem(RandomStream& random, int64_t ranks, size_t waves) {
  PlacementProblem p{.ranks = ranks,
                     .island = ranks / 2,
                     .intra_ms_per_mb = 0.01,
                     .inter_ms_per_mb = 0.1,
                     .memory_mb = 0,
                     .weight_mb = {},
                     .pieces = {},
                     .waves = {}};
  for (int op = 0; op < 4; ++op) p.weight_mb.push_back(static_cast<double>(1 + random.below(5)) * 100);
  for (size_t w = 0; w < waves; ++w) {
    auto& wave = p.waves.emplace_back();
    for (int64_t left = ranks; left > 0 && wave.size() < 3;) {
      const auto n = 1 + static_cast<int64_t>(random.below(static_cast<uint64_t>(std::min<int64_t>(left, 3))));
      PlacementProblem::Piece piece{
          .name = "p" + std::to_string(p.pieces.size()), .op = random.below(4), .ranks = n, .inputs = {}};
      if (w > 0) piece.inputs.push_back({p.waves[w - 1][random.below(p.waves[w - 1].size())], random.uniform(10, 100)});
      wave.push_back(p.pieces.size());
      p.pieces.push_back(piece);
      left -= n;
    }
  }
  p.memory_mb = random.uniform(400, 1300);
  return p;
}

/// Every placement: least cost that fits, and least of the fullest rank.
struct Brute {
  double cost = std::numeric_limits<double>::infinity(), mb = std::numeric_limits<double>::infinity();
};
Brute brute_force(const PlacementProblem& p) {
  Brute out;
  std::vector<int64_t> start(p.pieces.size(), -1);
  const auto place = [&](auto&& self, size_t w, size_t i) -> void {
    if (w == p.waves.size()) {
      const double mb = placement_mb(p, start);
      out.mb = std::min(out.mb, mb);
      if (mb <= p.memory_mb) out.cost = std::min(out.cost, placement_ms(p, start));
      return;
    }
    if (i == p.waves[w].size()) return self(self, w + 1, 0);
    const size_t piece = p.waves[w][i];
    for (int64_t s = 0; s + p.pieces[piece].ranks <= p.ranks; ++s) {
      bool free = true;
      for (size_t k = 0; k < i; ++k) {
        const size_t other = p.waves[w][k];
        free = free && (s + p.pieces[piece].ranks <= start[other] || start[other] + p.pieces[other].ranks <= s);
      }
      if (!free) continue;
      start[piece] = s;
      self(self, w, i + 1);
    }
  };
  place(place, 0, 0);
  return out;
}

TEST(Placement, TinyCasesAreOptimal) {
  RandomStream random({.seed = 40});
  for (int round = 0; round < 12; ++round) {
    const PlacementProblem problem = random_problem(random, 4, 3);
    const Brute want = brute_force(problem);
    const auto got = place_waves(problem);
    ASSERT_EQ(got.has_value(), std::isfinite(want.cost)) << round;
    if (got) {
      EXPECT_NEAR(got->cost_ms, want.cost, 1e-9 * (1 + want.cost)) << round;
      EXPECT_LE(placement_mb(problem, got->start), problem.memory_mb);
    }
    EXPECT_NEAR(least_placement_mb(problem), want.mb, 1e-9) << round;
  }
}

TEST(Placement, AFlowIsCarriedOnceAndWhereItLiesFree) {
  const PlacementProblem p{.ranks = 4,
                           .island = 2,
                           .intra_ms_per_mb = 1,
                           .inter_ms_per_mb = 10,
                           .memory_mb = 1,
                           .weight_mb = {},
                           .pieces = {},
                           .waves = {}};
  EXPECT_EQ(flow_ms(p, 8, 2, 0, 2, 0), 0);
  EXPECT_NEAR(flow_ms(p, 8, 2, 0, 2, 2), 80, 1e-12);
  EXPECT_NEAR(flow_ms(p, 8, 1, 0, 2, 0), 4, 1e-12);  // half stays, half goes to the neighbour
}

}  // namespace
}  // namespace unigrpo::planner
