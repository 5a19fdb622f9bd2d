#include "io/class_config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

class ClassConfigTest : public ::testing::Test {
 protected:
  ClassConfig open(const std::string& text) {
    std::ofstream(file()) << text;
    return ClassConfig::open(file(), {"Net", "WiderNet"});
  }
  std::string file() const { return (folder_.path() / "config.json").string(); }

  template <typename Call>
  void expect_refused(const std::string& text, const Call& call, const std::string& message) {
    try {
      ClassConfig config = open(text);
      call(config);
      FAIL() << text << " was taken";
    } catch (const BadInput& error) {
      EXPECT_EQ(std::string(error.what()), file() + ": " + message);
    }
  }

  testing::TempFolder folder_;
};

TEST_F(ClassConfigTest, AbsentKeysHaveTheDefaultsOfTheClass) {
  auto config = open(R"({"_class_name": "WiderNet", "_diffusers_version": "1", "size": 7, "none": null, "on": true})");
  EXPECT_EQ(config.class_name(), "WiderNet");
  EXPECT_EQ(config.integer("size", 3), 7);
  EXPECT_EQ(config.integer("depth", 3), 3);
  EXPECT_EQ(config.integer_or_none("none", 5), std::nullopt);
  EXPECT_EQ(config.integer_or_none("absent", 5), 5);
  EXPECT_EQ(config.booleans("on", {false}, 3), std::vector<bool>(3, true));
  EXPECT_EQ(config.integers("list", {1, 2}), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(config.choice("kind", "a", {"a", "b"}), "a");
  config.only("mode", 1);
  config.finish();
}

TEST_F(ClassConfigTest, NullIsAChoiceWhereTheClassHasNone) {
  auto config = open(R"({"_class_name": "Net", "act": null})");
  EXPECT_EQ(config.choice_or_none("act", "tanh", {"tanh"}), "");
  EXPECT_EQ(config.choice_or_none("act2", "tanh", {"tanh"}), "tanh");
  EXPECT_EQ(config.choice_or_none("act3", "", {"tanh"}), "");
  config.finish();
}

TEST_F(ClassConfigTest, WhatDoesNotFitIsNamed) {
  const auto none = [](ClassConfig&) {};
  expect_refused(R"({"size": 1})", none, "'_class_name' is missing (\"Net\", \"WiderNet\")");
  expect_refused(R"({"_class_name": "Other"})", none, "'_class_name' is \"Other\", expected \"Net\", \"WiderNet\"");
  expect_refused(
      R"({"_class_name": "Net", "size": 0})", [](ClassConfig& c) { c.integer("size", 1, 9); },
      "'size' must be an integer from 1 to 9, got 0");
  expect_refused(
      R"({"_class_name": "Net", "size": 2.5})", [](ClassConfig& c) { c.integer("size", 1, 9); },
      "'size' must be an integer from 1 to 9, got 2.5");
  expect_refused(
      R"({"_class_name": "Net", "list": [1, "x"]})", [](ClassConfig& c) { c.integers("list", {}); },
      "'list' must be an integer from 1 to 16777216, got \"x\"");
  expect_refused(
      R"({"_class_name": "Net", "list": []})", [](ClassConfig& c) { c.integers("list", {}); },
      "'list' must be a list of 1 to 64 entries, got []");
  expect_refused(
      R"({"_class_name": "Net", "on": [true]})", [](ClassConfig& c) { c.booleans("on", {}, 2); },
      "'on' must have 2 entries, has 1");
  expect_refused(
      R"({"_class_name": "Net", "kind": "c"})", [](ClassConfig& c) { c.choice("kind", "a", {"a", "b"}); },
      "'kind' must be one of \"a\", \"b\", got \"c\"");
  expect_refused(
      R"({"_class_name": "Net", "mode": 2})", [](ClassConfig& c) { c.only("mode", 1); },
      "'mode' is 2; only 1 is supported");
  expect_refused(
      R"({"_class_name": "Net", "surprise": null})", [](ClassConfig& c) { c.finish(); },
      "'surprise' is not a key of Net");
}

}  // namespace
}  // namespace unigrpo::io
