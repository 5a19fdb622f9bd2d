#include "train/layer_plans.h"

#include <gtest/gtest.h>

#include "support/refusal.h"
#include "support/temp_folder.h"

namespace unigrpo::train {
namespace {

using parallel::Shard;

parallel::LayerPlans read(const std::string& text) {
  const testing::TempFolder folder;
  return read_layer_plans(folder.write("plan.json", text), {.shard = Shard::gradients, .sp = 2});
}

std::string refused(const std::string& text) {
  const std::string line = testing::refusal([&] { read(text); });
  return line.substr(line.find("plan.json"));
}

std::string planned(const std::string& layers, const std::string& more = "") {
  return R"({"format": "unigrpo-plan/1", "world": 8, "global_batch": 8, "micro_batches": 4, "schedule": "gpipe",
             "partition": [1, 2], "embed": {"tp": 1, "sp": 1, "zero": 3}, "layers": [)" +
         layers + "]" + more + "}";
}

TEST(LayerPlans, AreWhatThePlannerWrote) {
  const auto plans = read(planned(R"({"pp": 2, "tp": 2, "sp": 1, "dp": 2, "zero": 1, "recompute": true},
                                     {"pp": 2, "tp": 1, "sp": 1, "dp": 4, "zero": 2, "recompute": false, "repeat": 2})"));
  ASSERT_EQ(plans.layers.size(), 3U);
  EXPECT_EQ(plans.layers[0].shard, Shard::optimizer);
  EXPECT_EQ(plans.layers[0].tp, 2);
  EXPECT_EQ(plans.layers[0].sp, 1);
  EXPECT_TRUE(plans.layers[0].recompute);
  EXPECT_EQ(plans.layers[0].stage, 0);
  for (const size_t layer : {1, 2}) {
    EXPECT_EQ(plans.layers[layer].shard, Shard::gradients);
    EXPECT_EQ(plans.layers[layer].tp, 1);
    EXPECT_FALSE(plans.layers[layer].recompute);
    EXPECT_EQ(plans.layers[layer].stage, 1);
  }
  EXPECT_EQ(plans.schedule, parallel::Schedule::gpipe);
  EXPECT_EQ(plans.rest, Shard::weights);
  EXPECT_EQ(plans.ranks, 8);
}

TEST(LayerPlans, AreLayersByThemselvesAsWell) {
  const auto plans = read(R"({"layers": [{}, {"sp": 1, "shard": "none"}]})");
  EXPECT_EQ(plans.layers[0].shard, Shard::gradients);
  EXPECT_EQ(plans.layers[0].sp, 2);
  EXPECT_EQ(plans.layers[1].shard, Shard::none);
  EXPECT_EQ(plans.rest, Shard::gradients);
  EXPECT_EQ(plans.ranks, 0);
}

TEST(LayerPlans, RefuseWhatRanksDoNotDo) {
  const std::string layer = R"({"pp": 2, "tp": 1, "sp": 1, "dp": 4, "zero": 0, "recompute": false, "repeat": 3})";
  EXPECT_EQ(refused(planned(layer, R"(, "waves": [[{"op": "a", "layers": 3, "devices": 8}]])")),
            "plan.json: waves: expected a plan of one model's layers");
  EXPECT_EQ(refused(planned(layer, R"(, "seed": 1)")).substr(0, 20), "plan.json: unknown k");
  EXPECT_EQ(refused(R"({"format": "unigrpo-plan/2"})").substr(0, 10), "plan.json:");
}

}  // namespace
}  // namespace unigrpo::train
