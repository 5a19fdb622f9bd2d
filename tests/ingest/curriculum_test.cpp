#include "ingest/curriculum.h"

#include <algorithm>
#include <set>

#include "ingest/set.h"
#include "support/refusal.h"

namespace unigrpo::ingest {
namespace {

using nlohmann::json;
using unigrpo::testing::refusal;

/// Six clips, of which two are for stage 1; three steps of stage 0, then two.
Manifest six_clips() {
  Manifest manifest;
  manifest.stage = "curriculum";
  manifest.settings = R"({"stages": [{"steps": 3}, {"steps": 2}, {"steps": 1}]})";
  for (int i = 0; i < 6; ++i) {
    const json stages = i < 2 ? json{0, 1} : json::array({0});
    manifest.rows.push_back({{"id", std::to_string(i)}, {"curriculum", {{"stages", stages}}}});
  }
  return manifest;
}

std::vector<std::string> ids_of(const Draw& draw) {
  std::vector<std::string> ids;
  for (const json& row : draw.rows) ids.push_back(row.at("id"));
  return ids;
}

TEST(DrawRows, AnEpochHoldsEachClipOnce) {
  std::multiset<std::string> seen;
  for (int64_t step = 0; step < 3; ++step) {
    const Draw draw = draw_rows(six_clips(), 7, step, 2);
    EXPECT_EQ(draw.stage, 0U);
    for (const std::string& id : ids_of(draw)) seen.insert(id);
  }
  EXPECT_EQ(seen, (std::multiset<std::string>{"0", "1", "2", "3", "4", "5"}));
}

TEST(DrawRows, AreAFunctionOfSeedAndStep) {
  EXPECT_EQ(ids_of(draw_rows(six_clips(), 7, 1, 4)), ids_of(draw_rows(six_clips(), 7, 1, 4)));
  std::set<std::vector<std::string>> orders;
  for (uint64_t seed = 0; seed < 10; ++seed) orders.insert(ids_of(draw_rows(six_clips(), seed, 0, 6)));
  EXPECT_GT(orders.size(), 5U);
}

TEST(DrawRows, TheStepSaysTheStage) {
  const Draw draw = draw_rows(six_clips(), 7, 4, 4);
  EXPECT_EQ(draw.stage, 1U);
  std::vector<std::string> ids = ids_of(draw);
  std::ranges::sort(ids);
  EXPECT_EQ(ids, (std::vector<std::string>{"0", "0", "1", "1"}));
  EXPECT_EQ(refusal([] { draw_rows(six_clips(), 7, 5, 1); }), "stage 2 of the curriculum has no clips");
  EXPECT_EQ(refusal([] { draw_rows(six_clips(), 7, 6, 1); }), "step 6: the curriculum has 6 steps");
}

TEST(ReadCurriculum, RefusesWhatItDoesNotKnow) {
  const testing::TempFolder folder;
  const auto refused = [&](const std::string& text) {
    const auto path = folder.write("c.json", text);
    const std::string line = refusal([&] { read_curriculum(path); });
    return line.substr(line.find("c.json"));
  };
  EXPECT_EQ(refused(R"({"stages": []})"), "c.json: stages: expected a list of stages");
  EXPECT_EQ(refused(R"({"stages": [{"tiers": [1], "streams": ["smell"], "steps": 1}]})"),
            "c.json: stages[0]: streams: \"smell\" is no stream, expected \"video\" or \"audio\"");
  EXPECT_EQ(refused(R"({"stages": [{"tiers": [1], "streams": ["video"], "steps": 1, "fps": 3}]})"),
            "c.json: stages[0]: unknown key 'fps'");
}

}  // namespace
}  // namespace unigrpo::ingest
