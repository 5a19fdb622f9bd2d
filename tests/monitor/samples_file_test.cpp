#include "monitor/samples_file.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "io/atomic_file.h"
#include "support/temp_folder.h"

namespace unigrpo::monitor {
namespace {

using data::SegmentKind;
using testing::TempFolder;

Image image_of(int width, int height, uint8_t first) {
  Image image{
      .width = width, .height = height, .pixels = std::vector<uint8_t>(3 * static_cast<size_t>(width * height))};
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(first + i);
  return image;
}

SampleRow row_of(const std::string& id) {
  data::SampleSegment plan, image;
  plan.text = "<think> one red circle </think>";
  plan.num_tokens = 9;
  plan.finished = false;
  image.kind = SegmentKind::image;
  image.image = image_of(5, 3, 7);
  SampleRow row;
  row.sample.id = id;
  row.sample.prompt = "a \"red\" circle\n";
  row.sample.metadata_json = R"({"include":[{"class":"circle","count":1}],"tag":"colors"})";
  row.sample.segments = {plan, image};
  row.sample.seed = 41;
  row.scores = {{"geneval", 0.5}, {"aesthetic", std::nullopt}};
  row.reasons = {{"aesthetic", "timed out"}};
  row.notes = {{"geneval", {{"seen", "a circle"}}}};
  row.reward = 0.5;
  row.advantage = {{"image", 0.5}, {"text", -1.25}};
  return row;
}

std::string message_of(const TempFolder& folder, const std::string& text) {
  folder.write("samples.jsonl", text);
  try {
    read_samples(folder.path());
  } catch (const BadInput& error) {
    return error.what();
  }
  return "no error";
}

TEST(SamplesFile, WhatIsWrittenIsRead) {
  const TempFolder folder;
  const std::vector<SampleRow> rows = {row_of("7/0"), row_of("7/1")};
  write_samples(folder.path() / "step_000020", rows);
  const auto read = read_samples(folder.path() / "step_000020");
  ASSERT_EQ(read.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(read[i].sample.id, rows[i].sample.id);
    EXPECT_EQ(read[i].sample.prompt, rows[i].sample.prompt);
    EXPECT_EQ(read[i].sample.metadata_json, rows[i].sample.metadata_json);
    EXPECT_EQ(read[i].sample.seed, 41);
    ASSERT_EQ(read[i].sample.segments.size(), 2U);
    EXPECT_EQ(read[i].sample.segments[0].text, rows[i].sample.segments[0].text);
    EXPECT_EQ(read[i].sample.segments[0].num_tokens, 9);
    EXPECT_FALSE(read[i].sample.segments[0].finished);
    EXPECT_EQ(read[i].sample.segments[1].image, rows[i].sample.segments[1].image);
    EXPECT_EQ(read[i].scores, rows[i].scores);
    EXPECT_EQ(read[i].reasons, rows[i].reasons);
    EXPECT_EQ(read[i].notes, rows[i].notes);
    EXPECT_EQ(read[i].reward, 0.5);
    EXPECT_EQ(read[i].advantage, (std::map<std::string, double>{{"image", 0.5}, {"text", -1.25}}));
  }
}

TEST(SamplesFile, HasTheKeysOfTheFormat) {
  const TempFolder folder;
  const std::vector<SampleRow> rows = {row_of("7/0")};
  write_samples(folder.path(), rows);
  EXPECT_EQ(
      io::read_text_file(folder.path() / "samples.jsonl"),
      R"({"id":"7/0","prompt":"a \"red\" circle\n","metadata":{"include":[{"class":"circle","count":1}],)"
      R"("tag":"colors"},"segments":[{"type":"text","text":"<think> one red circle </think>","num_tokens":9,)"
      R"("finished":false},{"type":"image","path":"000_00.png","width":5,"height":3}],"scores":{"aesthetic":null,)"
      R"("geneval":0.5},"reasons":{"aesthetic":"timed out"},"notes":{"geneval":{"seen":"a circle"}},"reward":0.5,"advantage":{"image":0.5,"text":-1.25},"seed":41})"
      "\n");
}

TEST(SamplesFile, WhatDoesNotApplyIsAbsent) {
  const TempFolder folder;
  std::vector<SampleRow> rows(1);
  rows[0].sample.id = "0";
  rows[0].sample.prompt = "p";
  write_samples(folder.path(), rows);
  EXPECT_EQ(io::read_text_file(folder.path() / "samples.jsonl"),
            "{\"id\":\"0\",\"prompt\":\"p\",\"metadata\":{},\"segments\":[],\"seed\":0}\n");
  const auto read = read_samples(folder.path());
  ASSERT_EQ(read.size(), 1U);
  EXPECT_FALSE(read[0].reward.has_value());
}

TEST(SamplesFile, TextThatStopsInsideACharacterIsStillWritten) {
  const TempFolder folder;
  std::vector<SampleRow> rows = {row_of("0/0")};
  rows[0].sample.segments[0].text = "one \xe2\x82";
  rows[0].reward = std::nan("");
  write_samples(folder.path(), rows);
  const auto read = read_samples(folder.path());
  EXPECT_EQ(read.at(0).sample.segments[0].text, "one \xef\xbf\xbd");
  EXPECT_FALSE(read[0].reward.has_value());
}

TEST(SamplesFile, BadRowsAreNamedByLine) {
  const TempFolder folder;
  const auto file = (folder.path() / "samples.jsonl").string();
  const std::string good = R"({"id":"0","prompt":"p","segments":[]})"
                           "\n";
  EXPECT_EQ(message_of(folder, good + "\n"), "no error");
  EXPECT_EQ(message_of(folder, good + good), file + ":2: id \"0\" stands in an earlier line");
  EXPECT_EQ(message_of(folder, good + "[]\n"), file + ":2: expected an object, found array");
  EXPECT_EQ(message_of(folder, R"({"id":"0","segments":[]})"), file + ":1: missing key \"prompt\"");
  EXPECT_EQ(message_of(folder, R"({"id":"0","prompt":"p","segments":[{"type":"image","path":"../x.png"}]})"),
            file + ":1: path: \"../x.png\" must be a relative path inside the folder");
  EXPECT_EQ(message_of(folder, R"({"id":"0","prompt":"p","segments":[],"notes":{"judge":"good"}})"),
            file + ":1: notes.judge: expected an object, found string");
  EXPECT_EQ(message_of(folder, R"({"id":"0","prompt":"p","segments":[],"notes":{"judge":{"reply":1}}})"),
            file + ":1: notes.judge.reply: expected a string, found number");
  EXPECT_EQ(message_of(folder, R"({"id":"0","prompt":"p","segments":[{"type":"sound"}]})"),
            file + ":1: segments: type must be \"text\", \"image\" or \"av\", found \"sound\"");
  EXPECT_EQ(message_of(folder, R"({"id":"0","prompt":"p","segments":[],"scores":{"a":"x"}})"),
            file + ":1: scores.a: expected a number or null, found string");
  EXPECT_EQ(message_of(folder, R"({"id":"0","prompt":"p","segments":[],"seed":18446744073709551615})"),
            file + ":1: seed: expected a 64-bit integer, found 18446744073709551615");
  EXPECT_NE(message_of(folder, good + "{").find(file + ":2"), std::string::npos);
  EXPECT_NE(message_of(folder, R"({"id":"0","prompt":"p","segments":[{"type":"image","path":"absent.png"}]})")
                .find("absent.png"),
            std::string::npos);
}

TEST(SamplesFile, AnImageOfAnotherSizeThanStatedIsRefused) {
  const TempFolder folder;
  const std::vector<SampleRow> rows = {row_of("0/0")};
  write_samples(folder.path(), rows);
  std::string text = io::read_text_file(folder.path() / "samples.jsonl");
  text.replace(text.find("\"width\":5"), 9, "\"width\":6");
  EXPECT_NE(message_of(folder, text).find("the image is 5x3, samples.jsonl says 6x3"), std::string::npos);
}

}  // namespace
}  // namespace unigrpo::monitor
