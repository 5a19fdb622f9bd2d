#include "data/prompt_file.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo::data {
namespace {

using unigrpo::testing::TempFolder;

std::string refusal(std::string_view text, const std::string& name = "p.jsonl") {
  const TempFolder folder;
  try {
    read_prompt_file(folder.write(name, text));
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

std::vector<Prompt> read(std::string_view text, const std::string& name = "p.jsonl") {
  const TempFolder folder;
  return read_prompt_file(folder.write(name, text));
}

// A row between two good ones is refused at line 2 with `part` in the message.
void expect_row_refused(const std::string& row, const std::string& part) {
  const std::string message = refusal("{\"prompt\": \"a\"}\n" + row + "\n{\"prompt\": \"b\"}\n");
  EXPECT_NE(message.find("p.jsonl:2: "), std::string::npos) << row << ": " << message;
  EXPECT_NE(message.find(part), std::string::npos) << row << ": " << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

// What is no prompt file by its name or its first bytes would be trained on as if it were plain text.
TEST(ReadPromptFile, OtherFormatsAreRefusedByName) {
  const std::string read = "prompt files are JSONL (.jsonl: a JSON object a line, with a \"prompt\") or plain text";
  for (const char* name : {"p.csv", "p.TSV", "p.parquet", "p.arrow", "p.yaml", "p.yml", "p.jsonl.gz", "p.xlsx"}) {
    const std::string message = refusal("id,prompt\n1,\"a red circle\"\n", name);
    EXPECT_NE(message.find(" files are not read; " + read), std::string::npos) << name << ": " << message;
  }
  for (const char* name : {"p.json", "p.jsonl"}) {
    EXPECT_NE(refusal("\n[{\"prompt\": \"a\"}]", name).find(":2: a JSON list; " + read), std::string::npos);
    EXPECT_NE(refusal("[\n  {\"prompt\": \"a\"}\n]\n", name).find(":1: a JSON list; "), std::string::npos);
    EXPECT_NE(refusal("{\n \"prompt\": \"a\"\n}\n", name).find("one JSON object over several lines"),
              std::string::npos);
  }
  EXPECT_NE(refusal("{\"prompt\": \"a\"}\n", "p.txt").find("rows of JSON, in a file whose name"), std::string::npos);
  EXPECT_NE(refusal("PAR1\x15\x04", "p").find("a Parquet file; " + read), std::string::npos);
  EXPECT_NE(refusal("\xEF\xBB\xBF"
                    "a\n",
                    "p.txt")
                .find("byte order mark"),
            std::string::npos);
  EXPECT_NE(refusal("\xFF\xFE", "p.txt").find("not valid UTF-8; " + read), std::string::npos);
}

TEST(ReadPromptFile, TheNameOfJsonlMayBeWrittenInAnyWay) {
  for (const char* name : {"p.JSONL", "p.ndjson", "p.Json"}) {
    EXPECT_EQ(read("{\"prompt\": \"a\"}\n", name)[0].text, "a") << name;
  }
  EXPECT_EQ(read("{braces} in a prompt\n", "p.txt")[0].text, "{braces} in a prompt");
}

TEST(ReadPromptFile, ReadsTargets) {
  const TempFolder folder;
  const auto rows = read_prompt_file(folder.write("p.jsonl", R"(
{"prompt": "a", "target": [{"type": "text", "text": "plan"}, {"type": "image", "path": "a/b.png"}]}
)"));
  ASSERT_EQ(rows[0].target.size(), 2u);
  EXPECT_EQ(rows[0].target[0].text, "plan");
  EXPECT_EQ(rows[0].target[1].image, (folder.path() / "a/b.png").string());
  EXPECT_EQ(rows[0].metadata_json, "{}");
  const auto refused = [](const std::string& target, const std::string& part) {
    expect_row_refused(R"({"prompt": "x", "target": )" + target + "}", part);
  };
  refused("[]", "target must not be empty");
  refused("{}", "target must be a list");
  refused("[3]", "target[0] must be an object");
  refused(R"([{"type": "video", "path": "x"}])", "target[0].type must be \"text\" or \"image\", found 'video'");
  refused(R"([{"text": "x"}])", "found none");
  refused(R"([{"type": "text"}])", "target[0].text is missing");
  refused(R"([{"type": "text", "text": " "}])", "target[0].text is blank");
  refused(R"([{"type": "text", "text": "x", "path": "y"}])", "unknown field 'path' in target[0]");
  refused(R"([{"type": "image", "path": "../x.png"}])", "target[0].path: '../x.png' has a '..' part");
}

TEST(ReadPromptFile, KeepsAllFields) {
  const TempFolder folder;
  const auto prompts = read_prompt_file(folder.write("p.jsonl", R"(
{"prompt": "a circle left of a square", "id": "x", "seed": 9223372036854775807, "weight": 2, "images": ["a/b.png", "./c.png"], "tag": "position", "include": [{"class": "square", "count": 1}, {"class": "circle", "count": 1, "color": "red", "position": ["left of", 0]}], "exclude": [], "reference": "r", "tags": ["u", ""], "metadata": {"k": [1.5, null]}}
{"prompt": "zwei \u00e4"}
)"));
  ASSERT_EQ(prompts.size(), 2u);
  const Prompt& first = prompts[0];
  EXPECT_EQ(first.text, "a circle left of a square");
  EXPECT_EQ(first.id, "x");
  EXPECT_EQ(first.seed, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(first.weight, 2.0);
  EXPECT_EQ(first.tag, "position");
  EXPECT_EQ(first.images,
            (std::vector<std::string>{(folder.path() / "a/b.png").string(), (folder.path() / "./c.png").string()}));
  EXPECT_EQ(first.index, 0);
  EXPECT_EQ(first.line, 2);
  const auto metadata = nlohmann::json::parse(first.metadata_json);
  EXPECT_EQ(metadata.size(), 6u);
  EXPECT_EQ(metadata.at("include").at(1).at("position"), nlohmann::json::parse(R"(["left of", 0])"));
  EXPECT_EQ(metadata.at("metadata").at("k").at(0), 1.5);
  EXPECT_EQ(prompts[1].id, "1");
  EXPECT_EQ(prompts[1].text, "zwei \xC3\xA4");
  EXPECT_EQ(prompts[1].metadata_json, "{}");
  EXPECT_FALSE(prompts[1].seed.has_value());
}

TEST(ReadPromptFile, SkipsBlankLinesAndTakesCarriageReturns) {
  EXPECT_EQ(read("\r\n{\"prompt\":\"a\"}\r\n \t\n{\"prompt\":\"b\"}").size(), 2u);
}

TEST(ReadPromptFile, GivesRowsWithoutIdFreeNames) {
  const auto prompts = read("{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"id\":\"0\"}\n");
  EXPECT_EQ(prompts[0].id, "row-0");
  EXPECT_EQ(prompts[1].id, "0");
}

TEST(ReadPromptFile, TakesThePromptSizeLimitExactly) {
  const std::string most(65536, 'a');
  EXPECT_EQ(read("{\"prompt\": \"" + most + "\"}").size(), 1u);
  expect_row_refused("{\"prompt\": \"a" + most + "\"}", "prompt has 65537 bytes");
}

TEST(ReadPromptFile, RefusesBadPrompts) {
  expect_row_refused(R"({"id": "q"})", "prompt is missing");
  expect_row_refused("{}", "prompt is missing");
  for (const char* value : {"null", "3", "true", "[\"a\"]", "{}"}) {
    expect_row_refused(std::string(R"({"prompt": )") + value + "}", "prompt must be a string");
  }
  for (const char* blank : {"", " ", "\\n\\t", "\\u00a0\\u3000", "\\u2028"}) {
    expect_row_refused(std::string(R"({"prompt": ")") + blank + "\"}", "prompt is blank");
  }
  expect_row_refused(R"({"prompt": "a\u0000b"})", "NUL");
}

TEST(ReadPromptFile, RefusesWhatIsNoJsonObject) {
  for (const char* row : {"[]", "[{\"prompt\": \"a\"}]", "\"a\"", "3", "true", "null"}) {
    expect_row_refused(row, "must be a JSON object");
  }
  for (const char* row :
       {"{\"prompt\":\"x\",}", "{'prompt': 'x'}", "{\"prompt\": \"x\"", "{\"prompt\": \"x\"} {}",
        "{\"prompt\": \"\xff\"}", "{\"prompt\": \"\xed\xa0\x80\"}", "{\"prompt\": \"\xc0\xaf\"}",
        "{\"prompt\": \"\\ud800\"}", "\xEF\xBB\xBF{\"prompt\": \"x\"}", "a red cat", "// note", "\x0C",
        "{\"prompt\": \"x\", \"prompt\": \"x\"}", "{\"prompt\": \"x\", \"pr\\u006fmpt\": \"y\"}",
        "{\"prompt\": \"x\ty\"}", "{prompt: \"x\"}", "{\"prompt\": \"x\", \"weight\": 01}"}) {
    expect_row_refused(row, "invalid JSON");
  }
  expect_row_refused(
      "{\"prompt\": \"x\", \"metadata\": {\"a\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}}",
      "nested deeper");
  expect_row_refused(std::string(5 << 20, ' ') + "{\"prompt\": \"x\"}", "the line has");
}

TEST(ReadPromptFile, RefusesBadFieldsByName) {
  const auto field = [](const std::string& name, const std::string& value) {
    expect_row_refused(R"({"prompt": "z", ")" + name + "\": " + value + "}", name);
  };
  for (const char* value : {"-1", "9223372036854775808", "18446744073709551616", "1.0", "1e3", "\"1\"", "true", "null",
                            "1e400", "NaN", "[1]"}) {
    field("seed", value);
  }
  for (const char* value :
       {"0", "-1", "0.0", "-0.5", "\"1\"", "true", "null", "1e400", "-1e400", "NaN", "Infinity", "-Infinity"}) {
    field("weight", value);
  }
  for (const char* value : {"\"\"", "3", "null", "[\"a\"]", "\"a\\u0000\""}) field("id", value);
  for (const char* value : {"3", "null", "[\"a\"]"}) {
    field("tag", value);
    field("reference", value);
  }
  for (const char* value : {"\"a\"", "null", "{}", "[1]", "[\"a\", null]"}) field("tags", value);
  for (const char* value : {"\"a\"", "null", "[]", "1"}) field("metadata", value);
  field("promtp", "\"x\"");
  expect_row_refused(R"({"prompt": "z", "wieght": 1})", "did you mean 'weight'");
  expect_row_refused(R"({"prompt": "z", "Prompt": "y"})", "unknown field 'Prompt'");
}

TEST(ReadPromptFile, RefusesDuplicateIds) {
  const std::string message = refusal("{\"prompt\":\"a\",\"id\":\"i\"}\n\n{\"prompt\":\"b\",\"id\":\"i\"}\n");
  EXPECT_NE(message.find("p.jsonl:3: duplicate id 'i'"), std::string::npos) << message;
}

TEST(ReadPromptFile, RefusesImagePathsThatLeaveTheFolder) {
  for (const char* path : {"",
                           " ",
                           "/etc/passwd",
                           "//host/x",
                           "../x.png",
                           "a/../../x.png",
                           "img/..",
                           "..",
                           ".",
                           "a/",
                           "a/.",
                           "a\\\\..\\\\b",
                           "\\\\\\\\host\\\\x",
                           "C:\\\\x.png",
                           "C:x.png",
                           "http://h/x.png",
                           "file:///x.png",
                           "data:image/png;base64,AA",
                           "s3://b/x",
                           "~/x.png",
                           "%2e%2e/x.png",
                           "..%2Fx.png",
                           "a\\u0000.png",
                           "a\\nb.png"}) {
    expect_row_refused(std::string(R"({"prompt": "z", "images": [")") + path + "\"]}", "images");
  }
  for (const char* value : {"\"a.png\"", "null", "{}", "[1]", "[null]", "[[\"a.png\"]]"}) {
    expect_row_refused(std::string(R"({"prompt": "z", "images": )") + value + "}", "images");
  }
  EXPECT_EQ(read(R"({"prompt": "z", "images": ["a b/..c.png", "ü/1:2.png", ".hidden"]})")[0].images.size(), 3u);
}

TEST(ReadPromptFile, RefusesBadRequirements) {
  for (const char* value :
       {"{}", "[1]", "[{}]", R"([{"class": "a"}])", R"([{"count": 1}])", R"([{"class": "", "count": 1}])",
        R"([{"class": 1, "count": 1}])", R"([{"class": "a", "count": 0}])", R"([{"class": "a", "count": 1.0}])",
        R"([{"class": "a", "count": "1"}])", R"([{"class": "a", "count": 1, "color": 3}])",
        R"([{"class": "a", "count": 1, "colour": "red"}])", R"([{"class": "a", "count": 1, "position": "left of"}])",
        R"([{"class": "a", "count": 1, "position": ["left of"]}])",
        R"([{"class": "a", "count": 1, "position": ["left of", 1]}])",
        R"([{"class": "a", "count": 1, "position": ["left of", -1]}])",
        R"([{"class": "a", "count": 1, "position": [0, "left of"]}])"}) {
    expect_row_refused(std::string(R"({"prompt": "z", "include": )") + value + "}", "include");
    expect_row_refused(std::string(R"({"prompt": "z", "exclude": )") + value + "}", "exclude");
  }
}

TEST(ReadPromptFile, RefusesFilesWithoutRows) {
  for (const char* text : {"", "\n", " \n\r\n\t"}) {
    EXPECT_NE(refusal(text).find("p.jsonl: empty: no prompt rows"), std::string::npos);
  }
  EXPECT_THROW(read_prompt_file("/nonexistent/p.jsonl"), BadInput);
  const TempFolder folder;
  EXPECT_THROW(read_prompt_file(folder.path()), BadInput);
}

TEST(ReadPromptFile, ReadsPlainTextLines) {
  const auto prompts = read("a red cat\r\n\n  a dog\n", "p.txt");
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[0].text, "a red cat");
  EXPECT_EQ(prompts[1].text, "  a dog");
  EXPECT_EQ(prompts[1].line, 3);
  EXPECT_NE(refusal("a\n\xff\n", "p.txt").find("p.txt:2: prompt is not valid UTF-8"), std::string::npos);
}

TEST(PromptFile, ASpreadTakesPromptsFromAllOverTheFile) {
  std::vector<Prompt> prompts(10);
  for (size_t i = 0; i < prompts.size(); ++i) prompts[i].index = static_cast<int64_t>(i);
  const auto indices = [&](int64_t count) {
    std::vector<int64_t> found;
    for (const Prompt& prompt : spread_over(prompts, count)) found.push_back(prompt.index);
    return found;
  };
  EXPECT_EQ(indices(4), (std::vector<int64_t>{0, 2, 5, 7}));
  EXPECT_EQ(indices(1), (std::vector<int64_t>{0}));
  EXPECT_EQ(indices(10).size(), 10u);
  EXPECT_EQ(indices(99).size(), 10u);
}

}  // namespace
}  // namespace unigrpo::data
