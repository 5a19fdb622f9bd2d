#include "parallel/layer_plan.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo::parallel {
namespace {

std::vector<LayerPlan> read(const std::string& text) {
  const testing::TempFolder folder;
  return read_layer_plan(folder.write("plan.json", text), {.tp = 2, .sp = 1, .recompute = true});
}

std::string refused(const std::string& text) {
  try {
    read(text);
  } catch (const BadInput& error) {
    const std::string line = error.what();
    return line.substr(line.find("plan.json"));
  }
  return {};
}

TEST(LayerPlan, SaysWhatALayerDoesAndLeavesTheRestToTheRecipe) {
  const auto layers = read(R"({"layers": [{}, {"tp": 1, "sp": 2, "recompute": false, "stage": 0, "shard": "none"}]})");
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[0].tp, 2);
  EXPECT_EQ(layers[0].sp, 1);
  EXPECT_TRUE(layers[0].recompute);
  EXPECT_EQ(layers[1].tp, 1);
  EXPECT_EQ(layers[1].sp, 2);
  EXPECT_FALSE(layers[1].recompute);
}

TEST(LayerPlan, RefusesWhatItIsNot) {
  const std::string whole =
      "plan.json: expected an object with one key, 'layers', a list with an object for each layer";
  for (const char* text : {"[]", "{}", R"({"layers": []})", R"({"layers": {}})", R"({"layers": [{}], "ends": {}})"}) {
    EXPECT_EQ(refused(text), whole) << text;
  }
  EXPECT_EQ(refused(R"({"layers": [{}, 3]})"), "plan.json: layers[1]: expected an object, got 3");
  EXPECT_EQ(refused(R"({"layers": [{"tP": 2}]})"),
            "plan.json: layers[0]: unknown field 'tP'; expected one of shard, tp, sp, recompute, stage");
  EXPECT_EQ(refused(R"({"layers": [{}, {"stage": 1}]})"),
            "plan.json: layers[1]: 'stage' is 1; there are no pipeline stages yet, expected 0");
  EXPECT_EQ(refused(R"({"layers": [{"shard": "weights"}]})"),
            R"(plan.json: layers[0]: 'shard' is "weights"; expected "none", one level for all layers)");
  EXPECT_EQ(refused(R"({"layers": [{}, {"tp": 2, "sp": 2}]})"),
            "plan.json: layers[1]: tp = 2 x sp = 2; expected a product of 2, as in layers[0]");
  for (const char* text : {R"({"layers": [{"tp": 0}]})", R"({"layers": [{"sp": "2"}]})", R"({"layers": [{"sp": 1.5}]})",
                           R"({"layers": [{"recompute": 1}]})", R"({"layers": [{"shard": 3}]})"}) {
    EXPECT_EQ(refused(text).substr(0, 20), "plan.json: layers[0]") << text;
  }
}

}  // namespace
}  // namespace unigrpo::parallel
