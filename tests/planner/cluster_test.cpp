#include "planner/cluster.h"

#include <gtest/gtest.h>

#include "planner/profile_folder.h"
#include "support/refusal.h"
#include "support/temp_folder.h"

namespace unigrpo::planner {
namespace {

TEST(MeasuredTimes, LieOnLinesBetweenSizes) {
  const MeasuredTimes times{{{1, 3}, {2, 5}, {4, 6}}};
  EXPECT_EQ(times.at(1), 3);
  EXPECT_EQ(times.at(1.5), 4);
  EXPECT_EQ(times.at(3), 5.5);
  EXPECT_EQ(times.at(8), 12);   // as many bytes a millisecond as the largest
  EXPECT_EQ(times.at(0.5), 2);  // a latency of 1 and 2 a MB
  const std::map<double, double> steep = {{1, 2}, {2, 10}};
  EXPECT_EQ(MeasuredTimes{steep}.at(0.5), 1);  // whose latency would be negative
}

TEST(Cluster, OfAProfileTakesItsTimesWithinANode) {
  Cluster cluster{.nodes = 1, .gpus_per_node = 4, .intra_gbps = 1, .intra_latency_us = 0};
  cluster.all_reduce_ms[4] = {{{8, 20}, {16, 30}}};
  cluster.all_to_all_ms[4] = {{{8, 6}, {16, 24}}};
  cluster.stage_gbps[2] = 0.5;
  const auto ms = [&](Collective kind, int64_t ranks, double mb) {
    return collective_ms(cluster, kind, {ranks, 1}, mb);
  };
  EXPECT_EQ(ms(Collective::all_reduce, 4, 8), 20);
  EXPECT_EQ(ms(Collective::all_to_all, 4, 8), 6);
  EXPECT_EQ(ms(Collective::all_gather, 4, 8), 6);
  EXPECT_EQ(ms(Collective::reduce_scatter, 4, 8), 14);
  EXPECT_EQ(ms(Collective::reduce_scatter, 4, 16), 24);  // an exchange is the least of it
  EXPECT_EQ(ms(Collective::all_to_all, 2, 8), 4);        // of which nothing was measured
  EXPECT_EQ(p2p_ms(cluster, 2, 8), 16);
  EXPECT_EQ(p2p_ms(cluster, 1, 8), 8);
  cluster.nodes = 2;
  EXPECT_NE(ms(Collective::all_to_all, 8, 8), 6);
}

TEST(Cluster, OfAProfileOnTheCpuHasNoContext) {
  const testing::TempFolder folder;
  write_hardware_profile(counted_hardware({.nodes = 1, .gpus_per_node = 4}, 3), 1, 4, folder.path());
  const ModelShape shape{.layers = 2, .hidden = 64, .intermediate = 128, .heads = 4, .kv_heads = 2, .vocab = 100};
  const SampleShape sample{.tokens = 32, .half = false};
  write_model_profile(analytic_model(shape, sample, 1), "tiny", folder.path());
  for (const auto& [about, context] :
       {std::pair{R"({"device": "cpu", "slice_slowdown": {"2": 1.25}})", 0.0}, {R"({"device": "cuda:0"})", 1024.0}}) {
    folder.write("unigrpo_profile.json", about);
    const ProfileFolder profile = open_profile(folder.path());
    const LoadedProfile loaded = load_profile(profile, {.types = {{2, 64, sample.tokens}}});
    const Cluster cluster = profiled_cluster(profile, loaded.hardware);
    EXPECT_EQ(cluster.context_mib, context);
    EXPECT_EQ(cluster.all_reduce_ms.size(), 2U);  // of 2 and of 4 ranks
    const PlannedModel model = planned_model(loaded, shape, sample);
    EXPECT_EQ(model.overlap, 2);
    const auto forward = [&](int64_t tp, int64_t dp) {
      return CostModel(model, cluster, {}, /*global_batch=*/4, /*micro_batches=*/1)
          .layer_work(0, {.tp = tp, .dp = dp})
          .forward;
    };
    const double slower = context == 0 ? 1.25 : 1;
    EXPECT_DOUBLE_EQ(forward(2, 2), slower * forward(1, 4));
    EXPECT_DOUBLE_EQ(forward(4, 1), slower * forward(1, 4));  // as the next smaller number
  }
  for (const char* slowdown : {"[]", R"({"1": 1.5})", R"({"two": 1.5})", R"({"2": 0.5})", R"({"2": "1.5"})"}) {
    folder.write("unigrpo_profile.json", std::string(R"({"slice_slowdown": )") + slowdown + "}");
    EXPECT_NE(testing::refusal([&] { open_profile(folder.path()); }).find("unigrpo_profile.json: slice_slowdown: "),
              std::string::npos)
        << slowdown;
  }
}

}  // namespace
}  // namespace unigrpo::planner
