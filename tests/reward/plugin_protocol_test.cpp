#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "reward/plugin/protocol.h"

namespace unigrpo::reward::plugin {
namespace {

const Description kTwo = {.name = "two", .dimensions = {{"first", 0, 1}, {.name = "second"}}};

std::string refusal_of_answer(const std::string& json, size_t num_samples = 1) {
  try {
    decode_answer(json, kTwo, num_samples);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

std::string refusal_of_description(const std::string& json) {
  try {
    decode_description(json);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

/// An image whose rows are padded, in memory of the test's own.
struct Image {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(4 * 16, 9);
  ImageView view() const { return {bytes.data(), 5, 4, 16}; }
};

TEST(Protocol, RequestsComeBackAsTheyWere) {
  Image image;
  image.bytes[16] = 77;  // first pixel of the second row
  SampleView sample{
      .id = "p/0", .prompt = "a \"star\"", .metadata_json = R"({"a": 1.0})", .group = 3, .segments = {}, .images = {}};
  sample.segments.push_back({.text = "two\nlines \xC3\xA9", .num_tokens = 4, .finished = false, .image = {}});
  sample.segments.push_back({.kind = SegmentView::Kind::image, .text = "", .image = image.view()});
  sample.images.push_back(image.view());
  const std::vector<SampleView> samples = {sample, sample};

  const RequestPlan plan = plan_request(samples);
  std::vector<std::byte> memory(plan.num_bytes);
  write_request(plan, samples, memory);
  const Frame frame{FrameKind::score, 1, plan.json_offset, plan.json.size()};
  const std::vector<SampleView> back = decode_request(message_of(frame, memory), memory);

  ASSERT_EQ(back.size(), 2u);
  EXPECT_EQ(back[1].id, "p/0");
  EXPECT_EQ(back[1].prompt, sample.prompt);
  EXPECT_EQ(back[1].metadata_json, sample.metadata_json);
  EXPECT_EQ(back[1].group, 3);
  ASSERT_EQ(back[1].segments.size(), 2u);
  EXPECT_EQ(back[1].segments[0].text, sample.segments[0].text);
  EXPECT_EQ(back[1].segments[0].num_tokens, 4);
  EXPECT_FALSE(back[1].segments[0].finished);
  const ImageView seen = back[1].segments[1].image;
  EXPECT_EQ(seen.width, 5);
  EXPECT_EQ(seen.row_stride, 15);
  EXPECT_EQ((seen.pixels - reinterpret_cast<uint8_t*>(memory.data())) % static_cast<std::ptrdiff_t>(kAlignment), 0);
  EXPECT_EQ(seen.pixels[15], 77);
  ASSERT_EQ(back[1].images.size(), 1u);
  EXPECT_EQ(back[1].images[0].pixels[15], 77);
}

TEST(Protocol, RefusesImagesAndMessagesOutsideOfTheMemory) {
  const std::vector<std::byte> memory(100);
  const auto request = [](const char* image) { return std::string(R"({"samples": [{"images": [)") + image + "]}]}"; };
  EXPECT_EQ(decode_request(request(R"({"offset": 0, "width": 5, "height": 6, "row_stride": 16})"), memory).size(), 1u);
  for (const char* image : {R"({"offset": 5, "width": 5, "height": 6, "row_stride": 16})",
                            R"({"offset": 18446744073709551615, "width": 1, "height": 1, "row_stride": 3})",
                            R"({"offset": 0, "width": 5, "height": 6, "row_stride": 14})",
                            R"({"offset": 0, "width": -5, "height": 6, "row_stride": 15})",
                            R"({"offset": 0, "width": 65535, "height": 65535, "row_stride": 9223372036854775807})"}) {
    EXPECT_THROW(decode_request(request(image), memory), BadInput) << image;
  }
  EXPECT_EQ(message_of({FrameKind::scores, 1, 90, 10}, memory).size(), 10u);
  EXPECT_THROW(message_of({FrameKind::scores, 1, 90, 11}, memory), BadInput);
  EXPECT_THROW(message_of({FrameKind::scores, 1, 101, 0}, memory), BadInput);
  EXPECT_THROW(message_of({FrameKind::scores, 1, 8, ~uint64_t{0}}, memory), BadInput);
}

TEST(Protocol, AnswersComeBackToTheLastBit) {
  Answer answer;
  answer.verdicts.resize(2, open_verdict(kTwo));
  enter_value(answer.verdicts[0], kTwo, 0, 0.1);
  enter_value(answer.verdicts[0], kTwo, 1, -1.0 / 3);
  enter_note(answer.verdicts[1], "plan", "two \xF0\x9F\x98\x80");
  answer.verdicts[1].reasons[0] = "blank";
  const Answer back = decode_answer(encode_answer(answer, kTwo), kTwo, 2);
  EXPECT_EQ(back.verdicts[0].values[0], 0.1);
  EXPECT_EQ(back.verdicts[0].values[1], -1.0 / 3);
  EXPECT_FALSE(back.verdicts[1].values[0]);
  EXPECT_EQ(back.verdicts[1].reasons[0], "blank");
  EXPECT_EQ(back.verdicts[1].reasons[1], "the plugin gave no value");
  EXPECT_EQ(back.verdicts[1].notes, answer.verdicts[1].notes);
}

TEST(Protocol, RefusesValuesThatAreNoScores) {
  const auto reason = [](const char* value) {
    const Answer answer = decode_answer(std::string(R"({"scores": [{"values": {"first": )") + value + "}}]}", kTwo, 1);
    EXPECT_FALSE(answer.verdicts[0].values[0]);
    return answer.verdicts[0].reasons[0];
  };
  EXPECT_EQ(reason("2"), "the score 2 is outside of 0 .. 1");
  EXPECT_EQ(reason("1e39"), "the score 1e+39 is beyond float32");
  EXPECT_EQ(reason("null"), "the plugin gave no value");
}

TEST(Protocol, RefusesAnswersThatAreNone) {
  EXPECT_NE(refusal_of_answer("{").find("not JSON"), std::string::npos);
  EXPECT_NE(refusal_of_answer(R"({"scores": [{"values": {"first": NaN}}]})").find("not JSON"), std::string::npos);
  EXPECT_NE(refusal_of_answer(R"({"scores": [{"values": {"first": 1e400}}]})").find("not JSON"), std::string::npos);
  EXPECT_NE(refusal_of_answer(std::string(100, '[')).find("nests deeper"), std::string::npos);
  EXPECT_EQ(refusal_of_answer("[]"), "its message is no JSON object");
  EXPECT_EQ(refusal_of_answer("{}"), "gave 0 scores for 1 samples");
  EXPECT_EQ(refusal_of_answer(R"({"scores": [{}, {}]})"), "gave 2 scores for 1 samples");
  EXPECT_EQ(refusal_of_answer(R"({"scores": [1]})"), "its message has a number in \"scores\"");
  EXPECT_EQ(refusal_of_answer(R"({"scores": [{"values": {"first": "1"}}]})"), "its message has a string as score");
  EXPECT_EQ(refusal_of_answer(R"({"scores": [{"values": {"third": 1}}]})"),
            "its message scores the dimension 'third', which is not declared");
  EXPECT_EQ(refusal_of_answer(R"({"scores": [{"reasons": {"first": 1}}]})"),
            "its message has the wrong type for \"first\": number");
}

TEST(Protocol, DescriptionsComeBackAndAreChecked) {
  const Description back = decode_description(encode_description(kTwo));
  EXPECT_EQ(encode_description(back), encode_description(kTwo));
  EXPECT_EQ(back.dimensions[0].max, 1);
  EXPECT_EQ(back.dimensions[1].max, std::numeric_limits<double>::infinity());
  EXPECT_EQ(decode_description(R"({"protocol": 1})").dimensions[0].name, "score");

  EXPECT_EQ(refusal_of_description(R"({"protocol": 2})"), "it speaks version 2 of the protocol, expected 1");
  EXPECT_EQ(refusal_of_description(R"({"protocol": 1, "batch_size": 0})"),
            "it declares batch_size = 0, expected 1 to 65536");
  EXPECT_EQ(refusal_of_description(R"({"protocol": 1, "threads": 1000})"),
            "it declares threads = 1000, expected 1 to 256");
  EXPECT_NE(
      refusal_of_description(R"({"protocol": 1, "dimensions": [{"name": "a"}, {"name": "a"}]})").find("each its own"),
      std::string::npos);
  EXPECT_NE(refusal_of_description(R"({"protocol": 1, "dimensions": [{"name": ""}]})").find("1 to 100 bytes"),
            std::string::npos);
  EXPECT_NE(
      refusal_of_description(R"({"protocol": 1, "dimensions": [{"name": "a", "min": 2, "max": 1}]})").find("bounds"),
      std::string::npos);
}

TEST(Protocol, CutsNotesThatAreTooLong) {
  Verdict verdict = open_verdict(kTwo);
  enter_note(verdict, "long", std::string(4095, 'a') + "\xC3\xA9");
  EXPECT_EQ(verdict.notes.at("long").size(), 4095u);  // no half of a character
  for (int i = 0; i < 100; ++i) enter_note(verdict, std::to_string(i), "");
  EXPECT_EQ(verdict.notes.size(), 32u);
}

}  // namespace
}  // namespace unigrpo::reward::plugin
