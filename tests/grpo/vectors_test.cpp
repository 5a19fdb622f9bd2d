// Every numeric case of tests/data/vectors.json, through the functions that training uses.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "base/error.h"
#include "cli/selftest_vectors.h"
#include "support/temp_folder.h"

namespace unigrpo::cli {
namespace {

nlohmann::json vectors() {
  std::ifstream file(UNIGRPO_TEST_DATA "/vectors.json");
  return nlohmann::json::parse(file);
}

/// A file with the first case of `op` alone.
nlohmann::json only(const std::string& op) {
  nlohmann::json root = vectors();
  for (const auto& item : root["cases"]) {
    if (item["op"] == op) return {{"format", root["format"]}, {"cases", {item}}};
  }
  throw std::runtime_error("no case of " + op);
}

struct Outcome {
  int status;
  std::string text;
};

Outcome run(const nlohmann::json& root) {
  const testing::TempFolder folder;
  std::ostringstream out;
  const int status = run_selftest_vectors(folder.write("vectors.json", root.dump()), out);
  return {status, out.str()};
}

std::string message(const nlohmann::json& root) {
  try {
    run(root);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Vectors, AllPass) {
  std::ostringstream out;
  EXPECT_EQ(run_selftest_vectors(UNIGRPO_TEST_DATA "/vectors.json", out), 0);
  EXPECT_EQ(out.str(), "107 passed, 0 failed\n");
}

TEST(Vectors, AChangedExpectationOfAnyOpFails) {
  for (const std::string op : {"flow.time_grid", "flow.sde_step", "flow.sde_log_prob", "flow.latent_kl",
                               "flow.velocity_mse", "flow.ratio_norm", "grpo.group_advantages", "reward.combine",
                               "grpo.text_loss", "grpo.image_loss", "text.token_log_probs", "text.filtered_probs"}) {
    nlohmann::json root = only(op);
    auto& expected = root["cases"][0]["expected"];
    for (auto& [key, tensor] : expected.items()) {
      nlohmann::json changed = root;
      auto& value = changed["cases"][0]["expected"][key]["data"].back();
      value = value.get<double>() + 0.01 + 0.01 * std::abs(value.get<double>());
      const Outcome outcome = run(changed);
      EXPECT_EQ(outcome.status, 1) << op << " " << key;
      EXPECT_NE(outcome.text.find(key + " element"), std::string::npos) << outcome.text;
      EXPECT_NE(outcome.text.find("0 passed, 1 failed"), std::string::npos) << outcome.text;
    }
  }
}

TEST(Vectors, AnUnknownOpFailsWithItsName) {
  nlohmann::json root = only("flow.time_grid");
  root["cases"][0]["op"] = "flow.time_gird";
  const Outcome outcome = run(root);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.text.find("unknown op 'flow.time_gird'"), std::string::npos) << outcome.text;
}

TEST(Vectors, InputsThatAnOpRefusesFailTheCase) {
  nlohmann::json root = only("flow.sde_step");
  root["cases"][0]["params"]["t_next"] = 2.0;
  const Outcome outcome = run(root);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.text.find("0 <= t_next < t <= 1"), std::string::npos) << outcome.text;
}

TEST(Vectors, MalformedFilesNameCaseAndField) {
  nlohmann::json root = only("flow.sde_step");
  nlohmann::json bad = root;
  bad["format"] = "unigrpo-vectors/2";
  EXPECT_NE(message(bad).find("format is 'unigrpo-vectors/2'"), std::string::npos);

  bad = root;
  bad["cases"] = nlohmann::json::array();
  EXPECT_NE(message(bad).find("holds no case"), std::string::npos);

  bad = root;
  bad["cases"][0]["inputs"].erase("noise");
  EXPECT_NE(message(bad).find("case 'sde_step_flow_sde_0.7_0': inputs: 'noise' is missing"), std::string::npos)
      << message(bad);

  bad = root;
  bad["cases"][0]["inputs"]["x"]["shape"] = {2147483648LL, 2147483648LL, 4};  // 2^64: wraps to 0
  EXPECT_NE(message(bad).find("does not fit 48 data values"), std::string::npos) << message(bad);

  bad = root;
  bad["cases"][0]["inputs"]["x"]["data"][3] = "infinity";
  EXPECT_NE(message(bad).find("inputs.x: expected a number"), std::string::npos) << message(bad);

  bad = root;
  bad["cases"][0]["params"]["kind"] = "sde";
  EXPECT_NE(message(bad).find("params.kind: unknown value 'sde' (flow_sde | cps | dance)"), std::string::npos)
      << message(bad);
}

}  // namespace
}  // namespace unigrpo::cli
