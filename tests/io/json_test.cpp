#include "io/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/rng.h"
#include "support/mutate.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "f.json", limits);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Json, BuildsTheTree) {
  const auto tree = parse_json(R"( {"a": [1, -2, 2.5e1, true, false, null, "x"], "b": {"c": {}, "d": []}} )", "f.json");
  EXPECT_EQ(tree.dump(), R"({"a":[1,-2,25.0,true,false,null,"x"],"b":{"c":{},"d":[]}})");
}

TEST(Json, IntegersStayExact) {
  const auto tree = parse_json("[18446744073709551615, -9223372036854775808, 9007199254740993]", "f");
  EXPECT_EQ(tree[0].get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(tree[1].get<int64_t>(), INT64_MIN);
  EXPECT_EQ(tree[2].get<int64_t>(), 9007199254740993);
  EXPECT_NE(refusal("18446744073709551616").find("does not fit in 64 bits"), std::string::npos);
  EXPECT_NE(refusal("-9223372036854775809").find("does not fit in 64 bits"), std::string::npos);
  const auto wide = parse_json("[18446744073709551615, 1000000000000000019884624838656]", "f", {.wide_integers = true});
  EXPECT_EQ(wide[0].get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(wide[1].get<double>(), 1e30);
}

TEST(Json, RealsAreRoundedCorrectlyOrRefused) {
  EXPECT_EQ(parse_json("0.1", "f").get<double>(), 0.1);
  EXPECT_EQ(parse_json("1e-400", "f").get<double>(), 0.0);
  EXPECT_NE(refusal("1e400").find("out of range"), std::string::npos);
}

TEST(Json, StringsAreUnescaped) {
  EXPECT_EQ(parse_json(R"("\"\\\/\b\f\n\r\t\u0041\u00e9\u6c34\ud83c\udfa8")", "f").get<std::string>(),
            "\"\\/\b\f\n\r\tA\xc3\xa9\xe6\xb0\xb4\xf0\x9f\x8e\xa8");
}

TEST(Json, ErrorsSayWhere) {
  EXPECT_EQ(refusal("{\n \"a\": 1,\n \"a\": 2}"), "f.json: invalid JSON: duplicate key 'a' at byte 12, line 3");
  EXPECT_EQ(refusal("{\"a\" 1}"), "f.json: invalid JSON: unexpected '1', ':' was expected at byte 5");
}

TEST(Json, RefusesWhatIsNotStrictJson) {
  const std::string nul(1, '\0');
  for (const std::string& text : std::vector<std::string>{"",
                                                          " ",
                                                          nul,
                                                          "{",
                                                          "}",
                                                          "[",
                                                          "[1",
                                                          "[1,",
                                                          "[1,]",
                                                          "{\"a\":1,}",
                                                          "{\"a\"}",
                                                          "{a:1}",
                                                          "{\"a\":1}x",
                                                          "{}" + nul,
                                                          "1 2",
                                                          "01",
                                                          "-",
                                                          "1.",
                                                          ".5",
                                                          "1e",
                                                          "+1",
                                                          "0x1",
                                                          "NaN",
                                                          "nan",
                                                          "Infinity",
                                                          "-Infinity",
                                                          "tru",
                                                          "True",
                                                          "nulll",
                                                          "'a'",
                                                          "\"a",
                                                          "\"\\",
                                                          "\"\\u12\"",
                                                          "\"\\u12g4\"",
                                                          "\"\\x41\"",
                                                          "\"\t\"",
                                                          "\"\\ud800\"",
                                                          "\"\\ud800\\u0041\"",
                                                          "\"\\udc00\"",
                                                          "\"\\u+123\"",
                                                          "\"\\u-001\"",
                                                          "\xEF\xBB\xBF{}",
                                                          "\"\xff\"",
                                                          "\"\xc0\x80\"",
                                                          "\"\xed\xa0\x80\"",
                                                          "\"\xf4\x90\x80\x80\"",
                                                          "/**/1",
                                                          "// x\n1",
                                                          "{\"a\":1,\"a\":1}",
                                                          "{\"a\":{\"b\":1,\"\\u0062\":2}}",
                                                          "[1 2]",
                                                          "{\"a\":1 \"b\":2}",
                                                          "{1:2}",
                                                          "\xc2"}) {
    EXPECT_EQ(refusal(text).rfind("f.json: invalid JSON: ", 0), 0U) << text << ": " << refusal(text);
  }
}

TEST(Json, LimitsHold) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(refusal(nested(64)), "accepted");
  EXPECT_NE(refusal(nested(65)).find("nested deeper than 64"), std::string::npos);
  EXPECT_NE(refusal(std::string(10'000'000, '[')).find("nested deeper"), std::string::npos);
  EXPECT_EQ(refusal("[1,2,3]", {.max_values = 4}), "accepted");
  EXPECT_NE(refusal("[1,2,3,4]", {.max_values = 4}).find("more than 4 values"), std::string::npos);
}

TEST(Json, FilesAreNamed) {
  const unigrpo::testing::TempFolder folder;
  EXPECT_EQ(read_json_file(folder.write("a.json", "{\"a\":1}")).at("a"), 1);
  EXPECT_THROW(read_json_file(folder.path() / "none.json"), BadInput);
  EXPECT_THROW(read_json_file(folder.path()), BadInput);
  EXPECT_THROW(read_json_file(folder.write("b.json", "[1,2,3]"), {}, 6), BadInput);
}

// A second implementation as the judge: where ours accepts, nlohmann's parser must agree on the
// value; what that parser refuses, ours must refuse too.
TEST(Json, AgreesWithAnotherParserOnMutants) {
  const std::string seed =
      R"({"name": "w\u00e9\ud83c\udfa8", "list": [0, -1, 2.5e3, true, null, []], "o": {"k": "v"}})";
  size_t num_accepted = 0;
  for (uint64_t i = 0; i < 5000; ++i) {
    RandomStream random({.seed = 21, .sample = i, .purpose = Purpose::test});
    const std::string text = unigrpo::testing::mutate(seed, random);
    const auto theirs = nlohmann::json::parse(text, nullptr, false);
    try {
      const auto ours = parse_json(text, "f.json");
      ASSERT_EQ(ours, theirs) << text;
      ++num_accepted;
    } catch (const BadInput&) {
    }
  }
  EXPECT_GT(num_accepted, 100U);
}

}  // namespace
}  // namespace unigrpo::io
