// What holds for every instance. ctest takes a part of them; UNIGRPO_PROPERTIES=10000 takes all:
//
//   UNIGRPO_PROPERTIES=10000 build/bin/test_planner --gtest_filter='Properties.*'
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "planner/flexible_sequence.h"
#include "planner/graph_file.h"
#include "planner/model_shape.h"
#include "planner/placement.h"
#include "planner/search.h"
#include "planner/wave_fault.h"
#include "planner/waves.h"

namespace unigrpo::planner {
namespace {

int rounds() {
  const char* all = std::getenv("UNIGRPO_PROPERTIES");
  return all != nullptr ? std::atoi(all) : 150;
}

int64_t below(RandomStream& random, int64_t bound) {
  return static_cast<int64_t>(random.below(static_cast<uint64_t>(bound)));
}

TEST(Properties, GroupsHoldEverySequenceOnceAndFit) {
  RandomStream random({.seed = 301});
  for (int round = 0; round < rounds(); ++round) {
    const int64_t ranks = 1 + below(random, 40), count = 1 + below(random, 40);
    SequenceCost cost{.alpha1 = random.uniform(0, 1e-5),
                      .alpha2 = random.uniform(0.01, 0.3),
                      .beta = random.uniform(0, 200),
                      .comm_ms_per_token = {{1, 0.0}},
                      .tokens_per_rank = 500 + below(random, 9000)};
    for (const int64_t degree : {2, 3, 4, 6, 8, 16, 32}) {
      if (random.chance(0.7)) cost.comm_ms_per_token[degree] = random.uniform(0.001, 0.02);
    }
    std::vector<Sequence> sequences;
    for (int64_t j = 0; j < count; ++j) {
      const auto length = 1 + static_cast<int64_t>(400 * std::exp(1.4 * random.normal()));
      const auto real = static_cast<double>(length);
      sequences.push_back({length, random.chance(0.5) ? real * real : random.uniform(real, real * real)});
    }
    const bool step = random.chance(0.2);
    std::vector<Assignment> parts;
    if (step) {
      if (auto found = assign_step(cost, sequences, ranks, 20)) parts = std::move(*found);
    } else if (auto found = assign_sequences(cost, sequences, ranks, {.regroupings = 20, .solver = round % 50 == 0})) {
      ASSERT_LE(found->lower_bound, found->milliseconds * (1 + 1e-9)) << round;
      parts.push_back(std::move(*found));
    }
    if (parts.empty()) continue;
    std::vector<int> seen(sequences.size(), 0);
    for (const Assignment& part : parts) {
      int64_t used = 0;
      double slowest = 0;
      for (const SequenceGroup& group : part.groups) {
        ASSERT_FALSE(group.sequences.empty()) << round;
        int64_t tokens = 0;
        for (const int64_t j : group.sequences) ++seen[j], tokens += sequences[j].length;
        ASSERT_LE(tokens, group.degree * cost.tokens_per_rank) << round;
        used += group.degree;
        slowest = std::max(slowest, group_ms(cost, sequences, group));
      }
      ASSERT_LE(used, ranks) << round;
      ASSERT_NEAR(part.milliseconds, slowest, 1e-9 * slowest) << round;
    }
    ASSERT_TRUE(std::ranges::all_of(seen, [](int n) { return n == 1; })) << round;
    if (!step && round % 4 == 0) {
      const auto again = assign_sequences(cost, sequences, ranks, {.regroupings = 20, .solver = false});
      for (size_t g = 0; g < parts[0].groups.size(); ++g) {
        ASSERT_EQ(again->groups[g].sequences, parts[0].groups[g].sequences) << round;
      }
    }
  }
}

TEST(Properties, WavesRunEveryLayerOnceAndInOrder) {
  RandomStream random({.seed = 302});
  for (int round = 0; round < rounds(); ++round) {
    const int64_t ranks = 1 + below(random, 12);
    std::vector<MetaOp> ops;
    for (int64_t m = 0, count = 1 + below(random, 5); m < count; ++m) {
      MetaOp& op = ops.emplace_back(MetaOp{.name = "op" + std::to_string(m), .layers = 1 + below(random, 4)});
      for (int64_t n = 1; n <= ranks; n += 1 + below(random, 3)) op.ms[n] = random.uniform(0.1, 9);
      for (int64_t dep = 0; dep < m; ++dep) {
        if (random.chance(0.3)) op.deps.push_back(static_cast<size_t>(dep));
      }
    }
    const WaveSchedule schedule = schedule_waves(ops, ranks);
    ASSERT_EQ(fault_of(ops, ranks, schedule), "") << round;
    ASSERT_EQ(waves_to_json(ops, schedule_waves(ops, ranks)).dump(), waves_to_json(ops, schedule).dump()) << round;
  }
}

TEST(Properties, PlansFitHoldAllLayersAndComeBackByteForByte) {
  RandomStream random({.seed = 303});
  for (int round = 0; round < rounds(); ++round) {
    const int64_t heads = int64_t{4} << below(random, 3);
    const ModelShape shape{.layers = 1 + below(random, 6),
                           .hidden = heads * 64,
                           .intermediate = heads * 64 * (1 + below(random, 4)),
                           .heads = heads,
                           .kv_heads = heads / (random.chance(0.5) ? 1 : 2),
                           .vocab = 1000 + below(random, 50000),
                           .experts = 1 + below(random, 2)};
    const PlannedModel model = analytic_model(shape, {.tokens = 64 + below(random, 4000), .half = random.chance(0.7)},
                                              random.uniform(50, 900));
    const Cluster cluster{.nodes = 1 + below(random, 2),
                          .gpus_per_node = 1 + below(random, 6),
                          .memory_gib = random.uniform(0.2, 6),
                          .node_gbps = random.uniform(1, 60)};
    const SearchQuery query{.global_batch = 1 + below(random, 12), .uniform = random.chance(0.2)};
    const auto text = [&] {
      try {
        const SearchResult result = search_plans(model, cluster, query);
        return result.plans.empty() ? std::string() : plan_to_json(result.plans.front().plan).dump();
      } catch (const BadInput&) {
        return std::string();  // nothing divides
      }
    };
    const std::string first = text();
    ASSERT_EQ(text(), first) << round;
    if (first.empty()) continue;
    const Plan plan = plan_from_json(nlohmann::json::parse(first), "plan");  // checks degrees, world, batch
    ASSERT_EQ(plan_to_json(plan).dump(), first) << round;
    ASSERT_EQ(plan.world, cluster.world()) << round;
    ASSERT_EQ(std::ssize(plan.layers), shape.layers) << round;
    ASSERT_EQ(std::accumulate(plan.partition.begin(), plan.partition.end(), int64_t{0}), shape.layers) << round;
    for (const double mb : plan.predicted.memory_mb) ASSERT_LE(mb, cluster.memory_gib * 1024) << round;
    for (const Strategy& s : plan.layers) ASSERT_EQ(heads % s.split(), 0) << round;
  }
}

TEST(Properties, PlacementsKeepWavesApartAndFit) {
  RandomStream random({.seed = 304});
  for (int round = 0; round < rounds() / 8; ++round) {  // some 50 ms each
    PlacementProblem p{.ranks = 2 + below(random, 8),
                       .island = 1 + below(random, 4),
                       .intra_ms_per_mb = 0.01,
                       .inter_ms_per_mb = random.uniform(0.02, 0.2),
                       .memory_mb = random.uniform(300, 2000),
                       .weight_mb = {},
                       .pieces = {},
                       .waves = {}};
    for (int op = 0; op < 4; ++op) p.weight_mb.push_back(random.uniform(50, 500));
    for (int64_t w = 0, waves = 1 + below(random, 3); w < waves; ++w) {
      auto& wave = p.waves.emplace_back();
      for (int64_t left = p.ranks; left > 0 && wave.size() < 3;) {
        PlacementProblem::Piece piece{
            .name = "p", .op = random.below(4), .ranks = 1 + below(random, left), .inputs = {}};
        if (w > 0) piece.inputs.push_back({p.waves[w - 1][random.below(p.waves[w - 1].size())], random.uniform(1, 50)});
        left -= piece.ranks;
        wave.push_back(p.pieces.size());
        p.pieces.push_back(std::move(piece));
      }
    }
    const auto got = place_waves(p);
    if (!got) {
      ASSERT_GT(least_placement_mb(p), p.memory_mb * (1 - 1e-9)) << round;
      continue;
    }
    ASSERT_LE(placement_mb(p, got->start), p.memory_mb * (1 + 1e-9)) << round;
    ASSERT_NEAR(placement_ms(p, got->start), got->cost_ms, 1e-9 * (1 + got->cost_ms)) << round;
    for (const auto& wave : p.waves) {
      std::vector<int> taken(static_cast<size_t>(p.ranks), 0);
      for (const size_t piece : wave) {
        for (int64_t r = 0; r < p.pieces[piece].ranks; ++r) ++taken.at(static_cast<size_t>(got->start[piece] + r));
      }
      ASSERT_TRUE(std::ranges::all_of(taken, [](int n) { return n <= 1; })) << round;
    }
    ASSERT_EQ(place_waves(p)->start, got->start) << round;
  }
}

}  // namespace
}  // namespace unigrpo::planner
