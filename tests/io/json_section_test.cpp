#include "io/json_section.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "io/atomic_file.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

using nlohmann::json;

JsonSection section(const char* text) { return {json::parse(text), "file"}; }

template <typename Read>
std::string refusal(const Read& read) {
  try {
    read();
    return "nothing";
  } catch (const BadInput& error) {
    return error.what();
  }
}

TEST(JsonSection, AKeyThatIsAbsentOrNullHasItsFallback) {
  const JsonSection s = section(R"({"a": null, "size": 3, "share": 0.5, "on": true, "name": "x"})");
  for (const char* key : {"a", "b"}) {
    EXPECT_FALSE(s.has(key));
    EXPECT_EQ(s.integer(key, 7), 7);
    EXPECT_EQ(s.number(key, 0.25), 0.25);
    EXPECT_EQ(s.positive(key, 0.25), 0.25);
    EXPECT_TRUE(s.boolean(key, true));
    EXPECT_EQ(s.text(key, "y"), "y");
    EXPECT_FALSE(s.section(key).has("anything"));
    s.expect(key, 3);
    EXPECT_EQ(refusal([&] { s.integer(key); }), std::string("file: '") + key + "' is missing (a positive integer)");
  }
  EXPECT_EQ(s.integer("size"), 3);
  EXPECT_EQ(s.number("share", 1), 0.5);
  EXPECT_TRUE(s.boolean("on", false));
  EXPECT_EQ(s.text("name", ""), "x");
}

TEST(JsonSection, AWrongValueIsNamedByFileAndKey) {
  const JsonSection s = section(R"({"zero": 0, "word": "3", "half": 0.5, "wide": 16777217, "in": {"x": -1}})");
  EXPECT_EQ(refusal([&] { s.integer("zero"); }), "file: 'zero' must be a positive integer, got 0");
  EXPECT_EQ(refusal([&] { s.integer("word", 1); }), "file: 'word' must be a positive integer, got \"3\"");
  EXPECT_EQ(refusal([&] { s.integer("half", 1); }), "file: 'half' must be a positive integer, got 0.5");
  EXPECT_EQ(refusal([&] { s.integer("wide", 1); }), "file: 'wide' must be at most 16777216, got 16777217");
  EXPECT_EQ(refusal([&] { s.number("word", 1); }), "file: 'word' must be a number, got \"3\"");
  EXPECT_EQ(refusal([&] { s.positive("zero", 1); }), "file: 'zero' must be a number above 0, got 0");
  EXPECT_EQ(refusal([&] { s.boolean("zero", true); }), "file: 'zero' must be true or false, got 0");
  EXPECT_EQ(refusal([&] { s.text("zero", ""); }), "file: 'zero' must be a string, got 0");
  EXPECT_EQ(refusal([&] { s.expect("word", 3); }), "file: 'word' is \"3\"; only 3 is supported");
  EXPECT_EQ(refusal([&] { s.section("in").positive("x", 1); }), "file: in: 'x' must be a number above 0, got -1");
  EXPECT_EQ(refusal([&] { s.section("zero"); }), "file: zero: expected a JSON object, got number");
}

TEST(JsonSection, ASectionOutlivesTheOneItCameFrom) {
  const testing::TempFolder folder;
  const auto file = folder.path() / "config.json";
  write_file_atomic(file, std::string_view(R"({"in": {"x": 2}, "unread": 100000000000000000000000000})"));
  const JsonSection inner = JsonSection::open(file).section("in");
  EXPECT_EQ(inner.integer("x"), 2);
  EXPECT_EQ(inner.where(), file.string() + ": in");
}

}  // namespace
}  // namespace unigrpo::io
