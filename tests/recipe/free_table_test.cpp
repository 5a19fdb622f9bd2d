#include "recipe/free_table.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "recipe/support.h"

namespace unigrpo::recipe {
namespace {

const std::string kPlugin = "[[rewards]]\nkind = \"plugin\"\npath = \"p.so\"\n";

std::string settings_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return accepted(kPlugin + text, overrides).reward.terms[0].plugin.settings;
}

std::string repeat(const std::string& piece, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += piece;
  return text;
}

TEST(FreeTable, IsReadAsJsonWithSortedKeys) {
  EXPECT_EQ(settings_of(""), "{}");
  EXPECT_EQ(
      settings_of("[rewards.settings]\nz = 1\na = 2.0\n\"b c\" = [true, 'x\"y', {q = -3}]\n[rewards.settings.d]\n"),
      R"({"a":2.0,"b c":[true,"x\"y",{"q":-3}],"d":{},"z":1})");
  EXPECT_EQ(settings_of("settings = {text = \"two\\nlines\"}\n"), R"({"text":"two\nlines"})");
  EXPECT_EQ(settings_of("settings.a.b = 9223372036854775807\n"), R"({"a":{"b":9223372036854775807}})");
}

TEST(FreeTable, BelongsToItsOwnTerm) {
  const Recipe recipe = accepted(kPlugin + "name = \"a\"\n[rewards.settings]\nx = 1\n" + kPlugin +
                                 "name = \"b\"\n[rewards.settings]\nx = 2\n");
  EXPECT_EQ(recipe.reward.terms[0].plugin.settings, R"({"x":1})");
  EXPECT_EQ(recipe.reward.terms[1].plugin.settings, R"({"x":2})");
}

TEST(FreeTable, RefusesWhatJsonHasNot) {
  EXPECT_EQ(refusal(kPlugin + "settings = 3\n"), "FILE:4:12: rewards.0.settings: expected a table, got 3");
  EXPECT_EQ(refusal(kPlugin + "settings = {a = [1, nan]}\n"),
            "FILE:4:21: rewards.0.settings.a.1: expected a number, got nan");
  EXPECT_EQ(refusal(kPlugin + "settings = {\"a b\" = 1979-05-27}\n"),
            "FILE:4:21: rewards.0.settings.\"a b\": expected a string, number, boolean, list or table, got a date "
            "or time");
  EXPECT_EQ(settings_of("settings = {a = " + repeat("[", 15) + repeat("]", 15) + "}\n").size(), 6 + 30u);
  EXPECT_NE(
      refusal(kPlugin + "settings = {a = " + repeat("[", 16) + repeat("]", 16) + "}\n").find("nests deeper than 16"),
      std::string::npos);
}

TEST(FreeTable, GoesWithPluginsOnly) {
  EXPECT_EQ(refusal("[[rewards]]\nkind = \"format\"\nsettings = {a = 1}\n"),
            "FILE:3:12: rewards.0.settings: belongs to kind plugin, not to kind format");
}

TEST(FreeTable, IsWrittenSoThatItReadsBack) {
  const std::string settings = "settings = {a = 1.0, \"b c\" = [true, \"x\\\"\\u0001\"], d = {e = {}}}\n";
  const Recipe recipe = accepted(kPlugin + settings);
  const std::string text = to_toml(recipe);
  EXPECT_NE(text.find(settings), std::string::npos) << text;
  EXPECT_EQ(accepted(text).reward.terms[0].plugin.settings, recipe.reward.terms[0].plugin.settings);
}

TEST(FreeTable, CountsAsOneKeyInComparisons) {
  EXPECT_EQ(differing_keys(accepted(kPlugin), accepted(kPlugin + "settings = {a = 1}\n")),
            std::vector<std::string>{"rewards.0.settings"});
}

TEST(FreeTable, TakesOverrides) {
  const std::string text = "settings = {a = 1, b = {c = 2}}\n";
  EXPECT_EQ(settings_of(text, {"rewards.0.settings.b.c=[3, 4]"}), R"({"a":1,"b":{"c":[3,4]}})");
  EXPECT_EQ(settings_of(text, {"rewards.0.settings.a=raw text"}), R"({"a":"raw text","b":{"c":2}})");
  EXPECT_EQ(settings_of(text, {"rewards.0.settings.a=\"3\""}), R"({"a":"3","b":{"c":2}})");
  EXPECT_EQ(settings_of(text, {"rewards.0.settings.d.e.f=true"}), R"({"a":1,"b":{"c":2},"d":{"e":{"f":true}}})");
  EXPECT_EQ(settings_of(text, {"rewards.0.settings={z = 1}"}), R"({"z":1})");
}

TEST(FreeTable, SaysWhichOverrideIsWrong) {
  const auto said = [](const std::string& argument) { return refusal(kPlugin + "settings = {a = 1}\n", {argument}); };
  EXPECT_EQ(said("rewards.0.settings.a.b=1"), "--set rewards.0.settings.a.b=1: leads through a value that is no table");
  EXPECT_EQ(said("rewards.0.settings.=1"), "--set rewards.0.settings.=1: the key has an empty part");
  EXPECT_EQ(said("rewards.0.settings.a..b=1"), "--set rewards.0.settings.a..b=1: the key has an empty part");
  EXPECT_EQ(said("rewards.0.settings.b=nan"), "--set rewards.0.settings.b=nan: expected a number, got nan");
  EXPECT_EQ(said("rewards.0.settings=1"), "--set rewards.0.settings=1: expected a table, got 1");
  EXPECT_NE(said("rewards.1.settings.a=1").find("rewards has 1 element"), std::string::npos);
  EXPECT_NE(said("rewards.0.settings." + repeat("b.", 16) + "b=1").find("nests deeper than 16"), std::string::npos);
  EXPECT_NE(said("rewards.0.setings.a=1").find("unknown key"), std::string::npos);
}

TEST(FreeTable, MayBeAWholeDocument) {
  EXPECT_EQ(read_free_table("a = 1\n[b]\nc = \"d\"\n", "s.toml"), R"({"a":1,"b":{"c":"d"}})");
  try {
    read_free_table("[b]\nc = inf\n", "s.toml");
    ADD_FAILURE();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(), "s.toml:2:5: b.c: expected a number, got inf");
  }
}

}  // namespace
}  // namespace unigrpo::recipe
