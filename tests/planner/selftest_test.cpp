#include "planner/selftest.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "io/json.h"
#include "support/temp_folder.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(UNIGRPO_TEST_DATA) / "planner" / (name + ".json");
}

TEST(PlannerSelftest, EveryPublicCasePasses) {
  for (const char* name : {"choose", "flex", "galvatron", "lengths", "partition", "place", "sim", "tree", "waves"}) {
    std::ostringstream out;
    EXPECT_EQ(run_selftest(fixture(name), "", out), 0) << name << "\n" << out.str();
  }
}

TEST(PlannerSelftest, AWrongAnswerFails) {
  const json profiles = io::read_json_file(fixture("profiles"));
  const auto first = [&](const char* file, const std::string& op) {
    const json content = io::read_json_file(fixture(file));
    for (const json& one : content["cases"]) {
      if (one["op"] == op && one["expected"].value("feasible", true)) return one;
    }
    return json();
  };
  const auto judged = [&](const json& one, auto change) {
    json answer = solve_case(one["op"], one["input"], profiles);
    EXPECT_EQ(check_answer(one, answer), "") << one["name"];
    change(answer);
    return check_answer(one, answer);
  };
  EXPECT_NE(judged(first("flex", "flex.assign"), [](json& a) { a["groups"][0]["sequences"].clear(); }), "");
  EXPECT_NE(judged(first("flex", "flex.assign"), [](json& a) { a["groups"][0]["degree"] = 64; }), "");
  EXPECT_NE(judged(first("waves", "waves.schedule"), [](json& a) { a["waves"].erase(0); }), "");
  EXPECT_NE(judged(first("waves", "waves.schedule"), [](json& a) { a["waves"][0][0]["devices"] = 400; }), "");
  EXPECT_NE(judged(first("place", "waves.place"), [](json& a) { a["cost_ms"] = 1.0; }), "");
  EXPECT_NE(judged(first("place", "waves.place"), [](json& a) { a["start"]["p0"] = 1000; }), "");
  EXPECT_NE(judged(first("partition", "plan.partition"), [](json& a) { a["step_ms"] = 1.0; }), "");
  EXPECT_NE(judged(first("partition", "plan.partition"), [](json& a) { a["boundaries"][0] = 0; }), "");
  EXPECT_NE(
      judged(first("choose", "plan.choose"), [](json& a) { a["choice"][0] = (a["choice"][0].get<int>() + 1) % 5; }),
      "");
  EXPECT_NE(judged(first("galvatron", "galvatron.search"), [](json& a) { a["throughput"] = 3.0; }), "");
}

TEST(PlannerSelftest, ReproducesGalvatronsOwnSearchCase) {
  const json profiles = io::read_json_file(fixture("profiles"));
  const json content = io::read_json_file(fixture("galvatron"));
  for (const json& one : content["cases"]) {
    if (one["op"] != "galvatron.search") continue;
    const json answer = solve_case(one["op"], one["input"], profiles);
    EXPECT_EQ(answer["names"].dump(), one["info"]["strategies"].dump()) << one["name"];
    if (one["name"] == "p.search0") {
      EXPECT_NEAR(answer["throughput"].get<double>(), 2.6485091403918064, 1e-6);
    }
  }
}

TEST(PlannerSelftest, WritesAnswersAndTheSameBytesAgain) {
  const testing::TempFolder folder;
  std::ostringstream out;
  ASSERT_EQ(run_selftest(fixture("waves"), folder.path() / "a.json", out), 0) << out.str();
  ASSERT_EQ(run_selftest(fixture("waves"), folder.path() / "b.json", out), 0);
  EXPECT_EQ(io::read_json_file(folder.path() / "a.json").dump(), io::read_json_file(folder.path() / "b.json").dump());
  EXPECT_EQ(io::read_json_file(folder.path() / "a.json")["format"], "unigrpo-planner-answers/1");
}

TEST(PlannerSelftest, RefusesAnotherFormat) {
  const testing::TempFolder folder;
  folder.write("a.json", R"({"format": "x", "cases": []})");
  std::ostringstream out;
  EXPECT_THROW(run_selftest(folder.path() / "a.json", "", out), BadInput);
}

}  // namespace
}  // namespace unigrpo::planner
