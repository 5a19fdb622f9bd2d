#include "reward/builtin/ocr.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "io/image_codec.h"

namespace unigrpo::reward {
namespace {

TEST(OcrScore, IsOneMinusTheEditDistanceOverTheLength) {
  EXPECT_EQ(ocr_score("hello", "hello"), 1);
  EXPECT_EQ(ocr_score("hallo", "hello"), 0.8);
  EXPECT_EQ(ocr_score("", "hello"), 0);
  EXPECT_EQ(ocr_score("helloworld!", "helloworld"), 1);
  EXPECT_EQ(ocr_score("something else that is long", "hi you"), 0);  // never below 0
}

TEST(OcrScore, PassesOverWhiteSpaceAndCase) {
  EXPECT_EQ(ocr_score("HEL LO\n", "He llo"), 1);
  EXPECT_EQ(ocr_score("a sign: HELLO!", "hello"), 1);  // part of what was read
}

/// Nothing in a build without Tesseract, or on a machine without its English model: then the message says how to get
/// it.
std::unique_ptr<Reward> reward_or_nothing() {
  try {
    return make_ocr_reward();
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("install "), std::string::npos) << error.what();
    return nullptr;
  }
}

class OcrReward : public ::testing::Test {
 protected:
  void SetUp() override {
    reward_ = reward_or_nothing();
    if (!reward_) GTEST_SKIP() << "no Tesseract";
  }

  Score score_of(const data::Sample& sample) const { return reward_->score(std::vector{sample})[0]; }

  /// OPEN DOOR, black on white, 240x64.
  static data::Sample sign(const std::string& prompt, const std::string& metadata = "{}") {
    data::Sample sample;
    sample.prompt = prompt;
    sample.metadata_json = metadata;
    sample.segments.push_back({.kind = data::SegmentKind::image,
                               .text = "",
                               .image = io::read_image(UNIGRPO_SOURCE_DIR "/tests/reward/open_door.png")});
    return sample;
  }

  std::unique_ptr<Reward> reward_;
};

TEST_F(OcrReward, ReadsWhatThePromptQuotes) {
  const Score score = score_of(sign(R"(a sign that says "Open door" by the sea)"));
  EXPECT_EQ(score.value, 1.0) << score.notes.at("read");
  EXPECT_EQ(score.notes.at("read"), "OPEN DOOR");
}

TEST_F(OcrReward, TheRowsOwnTextComesFirst) {
  const Score score = score_of(sign(R"(a sign that says "open door")", R"({"metadata": {"text": "open doom"}})"));
  EXPECT_EQ(score.value, 0.875);  // one of eight letters
}

TEST_F(OcrReward, AnEmptyImageScoresZero) {
  data::Sample sample = sign(R"(a "word")");
  auto& pixels = sample.segments[0].image.pixels;
  std::fill(pixels.begin(), pixels.end(), uint8_t{255});
  EXPECT_EQ(score_of(sample).value, 0.0);
}

TEST_F(OcrReward, HasNoScoreWithoutAnImageOrATarget) {
  EXPECT_EQ(score_of(data::Sample{}).reason, "no image");
  for (const char* prompt : {"a sign", "a \"sign", "a \"\" sign", "a \"  \" sign"}) {
    const Score score = score_of(sign(prompt));
    EXPECT_FALSE(score.value) << prompt;
    EXPECT_EQ(score.reason, "no text to look for: neither 'metadata.text' nor \"a text\" in the prompt") << prompt;
  }
}

TEST_F(OcrReward, SaysWhatIsWrongWithARow) {
  EXPECT_EQ(reward_->missing_metadata("{}"), "");
  EXPECT_EQ(reward_->missing_metadata(R"({"metadata": {"text": "a"}})"), "");
  EXPECT_EQ(reward_->missing_metadata(R"({"metadata": {"text": 3}})"),
            "'metadata.text' must be a text that is not blank");
  EXPECT_EQ(reward_->missing_metadata(R"({"metadata": {"text": " "}})"),
            "'metadata.text' must be a text that is not blank");
}

}  // namespace
}  // namespace unigrpo::reward
