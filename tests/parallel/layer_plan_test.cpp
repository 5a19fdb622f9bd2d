#include "parallel/layer_plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "support/refusal.h"
#include "support/temp_folder.h"

namespace unigrpo::parallel {
namespace {

LayerPlans read(const std::string& text) {
  const testing::TempFolder folder;
  return read_layer_plan(folder.write("plan.json", text), {.shard = Shard::gradients, .tp = 2, .recompute = true});
}

std::string refused(const std::string& text) {
  const std::string line = testing::refusal([&] { read(text); });
  return line.substr(line.find("plan.json"));
}

TEST(LayerPlan, SaysWhatALayerDoesAndLeavesTheRestToTheRecipe) {
  const auto [layers, schedule, rest, ranks] =
      read(R"({"layers": [{}, {"tp": 1, "sp": 2, "recompute": false, "stage": 0, "shard": "weights"}]})");
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[0].tp, 2);
  EXPECT_EQ(layers[0].sp, 1);
  EXPECT_TRUE(layers[0].recompute);
  EXPECT_EQ(layers[1].tp, 1);
  EXPECT_EQ(layers[1].sp, 2);
  EXPECT_FALSE(layers[1].recompute);
  EXPECT_EQ(layers[0].shard, Shard::gradients);
  EXPECT_EQ(layers[1].shard, Shard::weights);
  EXPECT_EQ(rest, Shard::gradients);
  EXPECT_EQ(ranks, 0);
  EXPECT_EQ(schedule, Schedule::one_f_one_b);
  EXPECT_EQ(count_stages(layers), 1);
  EXPECT_EQ(count_stages({}), 1);
}

TEST(LayerPlan, LetsFewerRanksShareALayer) {
  const auto plans = read(R"({"layers": [{"tp": 1}, {"sp": 4}, {"tp": 1, "sp": 8}, {}]})");
  EXPECT_EQ(plans.layers[0].ranks(), 1);
  EXPECT_EQ(plans.layers[1].ranks(), 8);
  EXPECT_EQ(&most_shared(plans.layers), &plans.layers[1]);  // the first of two
}

TEST(LayerPlan, HasStagesOfAnyNumberOfLayers) {
  const auto [layers, schedule, rest, ranks] =
      read(R"({"layers": [{}, {"stage": 1}, {"stage": 1, "tp": 1, "sp": 2}, {"stage": 2}], "schedule": "gpipe"})");
  ASSERT_EQ(layers.size(), 4U);
  EXPECT_EQ(layers[2].stage, 1);
  EXPECT_EQ(count_stages(layers), 3);
  EXPECT_EQ(schedule, Schedule::gpipe);
}

TEST(LayerPlan, RefusesStagesOutOfOrder) {
  const auto of = [](const std::string& stages) {
    std::string layers;
    for (const char stage : stages) layers += fmt::format("{}{{\"stage\": {}}}", layers.empty() ? "" : ", ", stage);
    return refused("{\"layers\": [" + layers + "]}");
  };
  EXPECT_EQ(of("1"), "plan.json: layers[0]: 'stage' is 1; expected 0 for the first layer");
  EXPECT_EQ(of("02"), "plan.json: layers[1]: 'stage' is 2; expected 0 as before or 1");
  EXPECT_EQ(of("0110"), "plan.json: layers[3]: 'stage' is 0; expected 1 as before or 2");
  for (const char* text : {R"({"layers": [{"stage": -1}]})", R"({"layers": [{"stage": 0.5}]})"}) {
    EXPECT_TRUE(refused(text).ends_with("; expected a whole number from 0 on")) << text;
  }
  EXPECT_EQ(refused(R"({"layers": [{}], "schedule": "zb"})"),
            R"(plan.json: 'schedule' is "zb"; expected 1f1b or gpipe)");
}

TEST(LayerPlan, RefusesWhatItIsNot) {
  const std::string whole =
      "plan.json: expected an object with 'layers', a list with an object for each layer, and perhaps 'schedule'";
  for (const char* text : {"[]", "{}", R"({"layers": []})", R"({"layers": {}})", R"({"layers": [{}], "ends": {}})"}) {
    EXPECT_EQ(refused(text), whole) << text;
  }
  EXPECT_EQ(refused(R"({"layers": [{}, 3]})"), "plan.json: layers[1]: expected an object, got 3");
  EXPECT_EQ(refused(R"({"layers": [{"tP": 2}]})"),
            "plan.json: layers[0]: unknown field 'tP'; expected one of shard, tp, sp, recompute, stage");
  EXPECT_EQ(refused(R"({"layers": [{"shard": "all"}]})"),
            R"(plan.json: layers[0]: 'shard' is "all"; expected none | optimizer | gradients | weights)");
  EXPECT_EQ(refused(R"({"layers": [{}, {"tp": 1, "sp": 3}]})"),
            "plan.json: layers[0]: tp = 2 x sp = 1; expected a product that divides the largest, 3");
  for (const char* text : {R"({"layers": [{"tp": 0}]})", R"({"layers": [{"sp": "2"}]})", R"({"layers": [{"sp": 1.5}]})",
                           R"({"layers": [{"recompute": 1}]})", R"({"layers": [{"shard": 3}]})"}) {
    EXPECT_EQ(refused(text).substr(0, 20), "plan.json: layers[0]") << text;
  }
}

}  // namespace
}  // namespace unigrpo::parallel
