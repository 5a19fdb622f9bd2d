#include "planner/graph_file.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "support/mutate.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

json graph() {
  return {{"ranks", 16},
          {"meta_ops",
           {{{"name", "vit"}, {"layers", 3}, {"times", {{"1", 12.0}, {"4", 3.6}, {"16", 1.5}}}, {"batch", 16}},
            {{"name", "lm"}, {"layers", 12}, {"times", {{"2", 9.0}, {"8", 3.0}}}, {"deps", {"vit"}}}}}};
}

std::string refusal(const json& object) {
  try {
    graph_from_json(object, "g.json");
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(GraphFile, TimesBetweenTheGivenOnesAreFilledInForABatch) {
  const ModuleGraph read = graph_from_json(graph(), "g.json");
  EXPECT_EQ(read.ops[0].ms.size(), 5U);  // 1, 2, 4, 8, 16
  EXPECT_NEAR(read.ops[0].ms.at(2), 12 - 11.2 * 0.5, 1e-12);
  EXPECT_EQ(read.ops[1].ms.size(), 2U);
  EXPECT_EQ(read.ops[1].deps, std::vector<size_t>{0});
  ASSERT_TRUE(read.worst);
  EXPECT_EQ(read.worst->op, "vit");
  EXPECT_EQ(read.worst->ranks, 4);
}

TEST(GraphFile, NamesWhatIsWrong) {
  const auto with = [](const char* pointer, const json& value) {
    json changed = graph();
    changed[json::json_pointer(pointer)] = value;
    return refusal(changed);
  };
  EXPECT_EQ(with("/ranks", 0), "g.json: ranks: must be a whole number from 1 to 65536, got '0'");
  EXPECT_EQ(with("/meta_ops/0/times/x", 1.0), "g.json: meta_ops[0]: times: 'x': must be a number of ranks");
  EXPECT_EQ(with("/meta_ops/0/times/2", 0), "g.json: meta_ops[0]: times: 2: must be above 0");
  EXPECT_EQ(with("/meta_ops/0/times", json::object()), "g.json: meta_ops[0]: times: must hold at least one time");
  EXPECT_EQ(with("/meta_ops/1/name", "vit"), "g.json: meta_ops[1]: name: 'vit' stands twice");
  EXPECT_EQ(with("/meta_ops/1/deps/0", "x"), "g.json: meta_ops[1]: deps: '\"x\"' is no module");
  EXPECT_EQ(with("/meta_ops/0/multiple", 0),
            "g.json: meta_ops[0]: multiple: must be a whole number from 1 to 16777216, got '0'");
}

TEST(GraphFile, DamagedFilesAreRefusedOrRead) {
  RandomStream random({.seed = 73});
  const std::string good = graph().dump();
  for (int round = 0; round < 4000; ++round) {
    try {
      graph_from_json(io::parse_json(testing::mutate(good, random), "f"), "f");
    } catch (const BadInput&) {
    }
  }
}

}  // namespace
}  // namespace unigrpo::planner
