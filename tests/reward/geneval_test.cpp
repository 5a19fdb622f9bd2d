#include "reward/builtin/geneval.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/worlds/shapes_world.h"
#include "reward/builtin/color_detector.h"

namespace unigrpo::reward {
namespace {

constexpr const char* kTwoLeftOfOne =
    R"({"tag": "compositional", "include": [{"class": "square", "count": 1, "color": "blue"},)"
    R"({"class": "circle", "count": 2, "color": "red", "position": ["left of", 0]}]})";
constexpr const char* kThreeCircles =
    R"({"tag": "counting", "include": [{"class": "circle", "count": 3}], "exclude": [{"class": "circle", "count": 4}]})";

Detection object(const std::string& class_name, const std::string& color, double x, double y, double radius = 6) {
  return {.class_name = class_name,
          .color = color,
          .confidence = 1,
          .left = x - radius,
          .top = y - radius,
          .right = x + radius,
          .bottom = y + radius};
}

GenevalScore score(std::string_view metadata, const std::vector<Detection>& found) {
  return score_geneval(parse_geneval_row(metadata), found, 64, 64);
}

TEST(ScoreGeneval, RightSceneMeetsEveryRequirement) {
  const auto result = score(kTwoLeftOfOne, {object("square", "blue", 50, 32), object("circle", "red", 15, 20),
                                            object("circle", "red", 15, 44)});
  EXPECT_EQ(result.strict, 1);
  EXPECT_EQ(result.soft, 1);
  EXPECT_EQ(result.reason, "");
}

TEST(ScoreGeneval, OneWrongColourCostsOneOfSevenRequirements) {
  const auto result = score(kTwoLeftOfOne, {object("square", "blue", 50, 32), object("circle", "red", 15, 20),
                                            object("circle", "green", 15, 44)});
  EXPECT_EQ(result.strict, 0);
  EXPECT_DOUBLE_EQ(result.soft, 6.0 / 7);
  EXPECT_EQ(result.reason, "expected red circle");
}

TEST(ScoreGeneval, MissingAndSurplusObjectsAreWrongCounts) {
  const auto missing = score(kTwoLeftOfOne, {object("square", "blue", 50, 32), object("circle", "red", 15, 20)});
  EXPECT_EQ(missing.strict, 0);
  EXPECT_DOUBLE_EQ(missing.soft, 6.0 / 7);
  EXPECT_EQ(missing.reason, "expected 2 circle, found 1");
  const auto surplus = score(R"({"include": [{"class": "circle", "count": 1}]})",
                             {object("circle", "red", 15, 20), object("circle", "red", 45, 20)});
  EXPECT_EQ(surplus.strict, 0);
  EXPECT_DOUBLE_EQ(surplus.soft, 0.5);
}

TEST(ScoreGeneval, WrongSideFailsTheRelationAlone) {
  const auto result = score(kTwoLeftOfOne, {object("square", "blue", 10, 32), object("circle", "red", 45, 20),
                                            object("circle", "red", 45, 44)});
  EXPECT_EQ(result.strict, 0);
  EXPECT_DOUBLE_EQ(result.soft, 6.0 / 7);
  EXPECT_EQ(result.reason, "red circle not left of blue square");
}

TEST(ScoreGeneval, OneOfTwoOnTheWrongSideIsWrong) {
  EXPECT_EQ(score(kTwoLeftOfOne,
                  {object("square", "blue", 32, 32), object("circle", "red", 10, 32), object("circle", "red", 54, 32)})
                .strict,
            0);
}

TEST(ScoreGeneval, ExcludedCountFailsAsWellAsTheCount) {
  std::vector<Detection> circles;
  for (int i = 0; i < 3; ++i) circles.push_back(object("circle", "red", 10 + 16 * i, 20));
  EXPECT_EQ(score(kThreeCircles, circles).strict, 1);
  circles.push_back(object("circle", "red", 30, 45));
  const auto four = score(kThreeCircles, circles);
  EXPECT_EQ(four.strict, 0);
  EXPECT_DOUBLE_EQ(four.soft, 1.0 / 3);
  EXPECT_EQ(four.reason, "expected 3 circle, found 4; expected fewer than 4 circle, found 4");
}

TEST(ScoreGeneval, EmptyImageMeetsNothingButTheExclusion) {
  EXPECT_EQ(score(kTwoLeftOfOne, {}).soft, 0);
  EXPECT_DOUBLE_EQ(score(kThreeCircles, {}).soft, 1.0 / 3);
}

TEST(ScoreGeneval, ObjectsOfOtherClassesAreIgnored) {
  EXPECT_EQ(score(R"({"include": [{"class": "circle", "count": 1}]})",
                  {object("circle", "red", 15, 20), object("star", "blue", 40, 40)})
                .strict,
            1);
}

TEST(ScoreGeneval, RelationNeedsAClearDirection) {
  const auto left_of = [](double dx, double dy) {
    return score(R"({"include": [{"class": "square", "count": 1},)"
                 R"({"class": "circle", "count": 1, "position": ["left of", 0]}]})",
                 {object("square", "red", 32, 32), object("circle", "red", 32 + dx, 32 + dy)})
        .strict;
  };
  // Boxes are 12 wide: the first 2.4 pixels of an offset do not count.
  EXPECT_EQ(left_of(-20, 0), 1);
  EXPECT_EQ(left_of(20, 0), 0);
  EXPECT_EQ(left_of(-20, 20), 1);  // (20 - 2.4) / 28.3 = 0.62
  EXPECT_EQ(left_of(-13, 20), 0);  // (13 - 2.4) / 23.9 = 0.44
  EXPECT_EQ(left_of(-2, 0), 0);
  EXPECT_EQ(left_of(-4, 0), 0);  // (4 - 2.4) / 4 = 0.40
  EXPECT_EQ(left_of(-6, 0), 1);  // (6 - 2.4) / 6 = 0.60
}

TEST(ScoreGeneval, AboveIsUpInTheImage) {
  const auto strict = [](const std::string& relation, double dy) {
    return score(R"({"include": [{"class": "square", "count": 1},{"class": "star", "count": 1, "position": [")" +
                     relation + R"(", 0]}]})",
                 {object("square", "red", 32, 32), object("star", "red", 32, 32 + dy)})
        .strict;
  };
  EXPECT_EQ(strict("above", -20), 1);
  EXPECT_EQ(strict("above", 20), 0);
  EXPECT_EQ(strict("below", 20), 1);
  EXPECT_EQ(strict("right of", 20), 0);
}

TEST(ScoreGeneval, EntriesOfOneClassCountTheirOwnColour) {
  constexpr const char* kRedAndBlue = R"({"include": [{"class": "circle", "count": 1, "color": "red"},)"
                                      R"({"class": "circle", "count": 1, "color": "blue"}]})";
  std::vector<Detection> found = {object("circle", "blue", 15, 20), object("circle", "red", 40, 40)};
  EXPECT_EQ(score(kRedAndBlue, found).strict, 1);
  found.push_back(object("circle", "green", 15, 50));
  EXPECT_EQ(score(kRedAndBlue, found).strict, 0);
}

// ---- GenEval's own evaluator. Each value was worked out by hand from evaluate() and evaluate_image() of
// evaluation/evaluate_images.py, github.com/djghosh13/geneval.

Detection sure(Detection object, double confidence) {
  object.confidence = confidence;
  return object;
}

bool correct(std::string_view metadata, const std::vector<Detection>& found, double min_confidence = 0.3) {
  return score_official(parse_geneval_row(metadata), found, min_confidence, 64, 64).correct;
}

constexpr const char* kOneCircle = R"({"tag": "single_object", "include": [{"class": "circle", "count": 1}]})";
constexpr const char* kRedCircle = R"({"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}]})";
constexpr const char* kCircleLeftOfSquare = R"({"tag": "position", "include": [{"class": "square", "count": 1},)"
                                            R"({"class": "circle", "count": 1, "position": ["left of", 0]}]})";

TEST(OfficialGeneval, AsksForTheCountOrMoreUnlessMoreIsExcluded) {
  const Detection a = object("circle", "red", 10, 10), b = object("circle", "red", 30, 10),
                  c = object("circle", "red", 50, 10), d = object("circle", "red", 30, 40);
  EXPECT_FALSE(correct(kOneCircle, {}));
  EXPECT_TRUE(correct(kOneCircle, {a}));
  EXPECT_TRUE(correct(kOneCircle, {a, b}));
  EXPECT_FALSE(correct(kThreeCircles, {a, b}));
  EXPECT_TRUE(correct(kThreeCircles, {a, b, c}));
  EXPECT_FALSE(correct(kThreeCircles, {a, b, c, d}));
  EXPECT_FALSE(correct(R"({"include": [{"class": "circle", "count": 1}], "exclude": [{"class": "star", "count": 1}]})",
                       {a, object("star", "red", 30, 30)}));
  EXPECT_TRUE(correct(R"({"include": [{"class": "circle", "count": 1}], "exclude": [{"class": "star", "count": 2}]})",
                      {a, object("star", "red", 30, 30)}));
}

TEST(OfficialGeneval, AsksTheSurestForTheirColour) {
  const Detection red = object("circle", "red", 10, 10), blue = object("circle", "blue", 40, 40);
  EXPECT_TRUE(correct(kRedCircle, {sure(blue, 0.5), sure(red, 0.9)}));
  EXPECT_FALSE(correct(kRedCircle, {sure(blue, 0.9), sure(red, 0.5)}));  // the blue one is the surest
  EXPECT_TRUE(correct(kRedCircle, {red, blue}));                         // equals: the detector's order
  EXPECT_FALSE(correct(kRedCircle, {object("circle", "", 10, 10)}));
  constexpr const char* kTwoRed = R"({"include": [{"class": "circle", "count": 2, "color": "red"}]})";
  EXPECT_FALSE(correct(kTwoRed, {sure(red, 0.9), sure(blue, 0.8), sure(object("circle", "red", 30, 10), 0.7)}));
  EXPECT_TRUE(correct(kTwoRed, {sure(red, 0.9), sure(blue, 0.6), sure(object("circle", "red", 30, 10), 0.7)}));
}

TEST(OfficialGeneval, AsksTheSurestForTheirPlace) {
  const Detection square = object("square", "blue", 32, 32), left = object("circle", "red", 10, 32),
                  right = object("circle", "red", 54, 32);
  EXPECT_TRUE(correct(kCircleLeftOfSquare, {square, left}));
  EXPECT_FALSE(correct(kCircleLeftOfSquare, {square, right}));
  EXPECT_TRUE(correct(kCircleLeftOfSquare, {square, sure(left, 0.9), sure(right, 0.8)}));
  EXPECT_FALSE(correct(kCircleLeftOfSquare, {square, sure(left, 0.8), sure(right, 0.9)}));
  EXPECT_FALSE(correct(kCircleLeftOfSquare, {left}));  // no square: no target either
  EXPECT_TRUE(correct(kCircleLeftOfSquare, {sure(square, 0.9), sure(object("square", "blue", 4, 40, 3), 0.8), left}));
  // Boxes of 12 pixels: (6 - 2.4) / 6 = 0.6 is beyond one half, (4 - 2.4) / 4 = 0.4 is not; on the diagonal
  // (20 - 2.4) / 28.28 = 0.62 in both directions.
  EXPECT_TRUE(correct(kCircleLeftOfSquare, {square, object("circle", "red", 26, 32)}));
  EXPECT_FALSE(correct(kCircleLeftOfSquare, {square, object("circle", "red", 28, 32)}));
  EXPECT_TRUE(correct(kCircleLeftOfSquare, {square, object("circle", "red", 12, 52)}));
  EXPECT_FALSE(correct(kCircleLeftOfSquare, {square, square, object("circle", "red", 32, 32)}));
}

TEST(OfficialGeneval, FailsTheRelationToAnEntryThatIsNotMet) {
  constexpr const char* kRow = R"({"include": [{"class": "square", "count": 1, "color": "red"},)"
                               R"({"class": "circle", "count": 1, "position": ["left of", 0]}]})";
  const OfficialScore score = score_official(
      parse_geneval_row(kRow),
      std::vector<Detection>{object("square", "blue", 50, 32), object("circle", "red", 10, 32)}, 0.3, 64, 64);
  EXPECT_FALSE(score.correct);
  EXPECT_EQ(score.reason, "expected 1 or more red square, found 0 among the surest; nothing for circle to be left of");
}

TEST(OfficialGeneval, PassesOverObjectsThatAreNotSureEnough) {
  const Detection a = object("circle", "red", 10, 10), b = object("circle", "red", 30, 10),
                  c = object("circle", "red", 50, 10);
  EXPECT_FALSE(correct(kOneCircle, {sure(a, 0.3)}));  // above, not at
  EXPECT_TRUE(correct(kOneCircle, {sure(a, 0.31)}));
  EXPECT_FALSE(correct(kThreeCircles, {a, b, sure(c, 0.9)}, 0.9));
  EXPECT_TRUE(correct(kThreeCircles, {a, b, sure(c, 0.91)}, 0.9));
  EXPECT_TRUE(correct(kThreeCircles, {a, b, c, sure(object("circle", "red", 30, 40), 0.8)}, 0.9));
  constexpr const char* kMany = R"({"include": [{"class": "circle", "count": 17}]})";
  EXPECT_FALSE(correct(kMany, std::vector<Detection>(20, a)));  // sixteen of a class at most
}

TEST(ScoreGeneval, RefusesMetadataOutsideTheSchema) {
  const auto refuse = [](std::string_view metadata, const std::string& part) {
    try {
      score(metadata, {});
      ADD_FAILURE() << "accepted " << metadata;
    } catch (const BadInput& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refuse("{}", "'include' is missing");
  refuse("[]", "must be an object");
  refuse(R"({"include": []})", "'include' is empty");
  refuse(R"({"include": {}})", "'include' must be a list");
  refuse(R"({"include": [3]})", "'include' entry 0: expected an object");
  refuse(R"({"include": [{"class": "circle"}]})", "'count' is missing");
  refuse(R"({"include": [{"class": "circle", "count": 0}]})", "at least 1");
  refuse(R"({"include": [{"class": "circle", "count": 1.5}]})", "at least 1");
  refuse(R"({"include": [{"class": "circle", "count": 1, "colour": "red"}]})", "unknown key 'colour'");
  refuse(R"({"include": [{"class": "circle", "count": 1, "position": ["near", 0]}]})", "left of | right of");
  refuse(R"({"include": [{"class": "circle", "count": 1, "position": ["above", 0]}]})", "an earlier entry");
  refuse(R"({"include": [{"class": "circle", "count": 1, "position": ["above", -1]}]})", "an earlier entry");
  refuse(R"({"include": [{"class": "circle", "count": 1}, {"class": "circle", "count": 2}]})", "different colors");
  refuse(R"({"include": [{"class": "circle", "count": 1}], "exclude": [{"count": 1}]})", "'class' is missing");
}

TEST(ScoreGeneval, RefusesBoxesOutsideTheImage) {
  EXPECT_THROW(score(kThreeCircles, {object("circle", "red", 80, 20)}), RuntimeFailure);
}

data::Sample sample_of(const Image& image, const std::string& metadata) {
  data::Sample sample;
  sample.metadata_json = metadata;
  sample.segments.push_back({.kind = data::SegmentKind::image, .text = "", .image = image});
  return sample;
}

TEST(GenevalReward, GivesTheMetricAndBothParts) {
  using enum data::shapes::Shape;
  using enum data::shapes::Color;
  const Image image = data::shapes::render({{square, blue, 48, 32, 8}, {circle, red, 16, 20, 8}});
  const std::vector<data::Sample> samples = {sample_of(image, kTwoLeftOfOne)};
  const auto value = [&](GenevalMetric metric) {
    const Score result = make_geneval_reward(metric, make_color_detector())->score(samples)[0];
    EXPECT_DOUBLE_EQ(result.parts.at("strict"), 0);
    EXPECT_DOUBLE_EQ(result.parts.at("soft"), 6.0 / 7);
    EXPECT_EQ(result.reason, "expected 2 circle, found 1");
    return result.value.value();
  };
  EXPECT_DOUBLE_EQ(value(GenevalMetric::strict), 0);
  EXPECT_DOUBLE_EQ(value(GenevalMetric::soft), 6.0 / 7);
  EXPECT_DOUBLE_EQ(value(GenevalMetric::mixed), 3.0 / 7);
}

/// Finds two circles wherever it looks, of which it is not very sure.
class TwoCircles : public Detector {
 public:
  std::vector<Detection> detect(const Image&) override {
    return {sure(object("circle", "red", 15, 20), 0.8), sure(object("circle", "blue", 45, 20), 0.7)};
  }
};

TEST(GenevalReward, GivesTheOfficialScoreBesideTheStrictOne) {
  const auto reward = make_geneval_reward(GenevalMetric::official, std::make_unique<TwoCircles>());
  const Image image = data::shapes::render({});
  const std::vector<data::Sample> samples = {
      sample_of(image, kOneCircle), sample_of(image, kRedCircle),
      sample_of(image, R"({"tag": "counting", "include": [{"class": "circle", "count": 2}]})")};
  const std::vector<Score> scores = reward->score(samples);
  EXPECT_EQ(scores[0].value, 1);
  EXPECT_EQ(scores[0].reason, "");
  EXPECT_EQ(scores[0].parts.at("strict"), 0);
  EXPECT_EQ(scores[0].parts.at("soft"), 0.5);
  EXPECT_EQ(scores[1].value, 1);
  EXPECT_EQ(scores[2].value, 0);  // in counting an object must be surer than 0.9
  EXPECT_EQ(scores[2].parts.at("strict"), 1);
}

TEST(GenevalReward, RefusesRowsThatTheColourDetectorCannotSee) {
  const auto refusal = [](const std::string& metadata) {
    return make_geneval_reward(GenevalMetric::strict, make_color_detector())->missing_metadata(metadata);
  };
  EXPECT_EQ(refusal(R"({"include": [{"class": "circle", "count": 1}, {"class": "bench", "count": 1}]})"),
            "'include' entry 1: detector = \"color\" finds circle, square, triangle, star of the embedded world alone "
            "(red, green, blue, yellow, purple, orange), no 'bench'; detector = \"http\" asks one that does");
  EXPECT_NE(refusal(R"({"include": [{"class": "circle", "count": 1, "color": "brown"}]})").find("no 'brown circle'"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"include": [{"class": "circle", "count": 1}], "exclude": [{"class": "dog", "count": 1}]})")
                .find("'exclude' entry 0"),
            std::string::npos);
  const auto asked = make_geneval_reward(GenevalMetric::strict, std::make_unique<TwoCircles>());
  EXPECT_EQ(asked->missing_metadata(R"({"include": [{"class": "bench", "count": 1, "color": "brown"}]})"), "");
}

TEST(GenevalReward, LeavesSamplesThatCannotBeJudgedWithoutAScore) {
  data::Sample no_image;
  no_image.metadata_json = kThreeCircles;
  const std::vector<data::Sample> samples = {no_image, sample_of({}, kThreeCircles),
                                             sample_of(data::shapes::render({}), "{")};
  const auto scores = make_geneval_reward(GenevalMetric::strict, make_color_detector())->score(samples);
  for (const Score& result : scores) EXPECT_FALSE(result.value);
  EXPECT_EQ(scores[0].reason, "no image");
  EXPECT_EQ(scores[1].reason, "the image is empty");
  EXPECT_NE(scores[2].reason.find("invalid JSON"), std::string::npos);
}

TEST(GenevalReward, SaysWhatMetadataLack) {
  const auto reward = make_geneval_reward(GenevalMetric::strict, make_color_detector());
  EXPECT_EQ(reward->missing_metadata(kThreeCircles), "");
  EXPECT_EQ(reward->missing_metadata(R"({"tag": "counting"})"), "'include' is missing");
}

TEST(GenevalReward, ScoresRenderedScenesOfEveryTestPromptAsRight) {
  const auto reward = make_geneval_reward(GenevalMetric::strict, make_color_detector());
  int64_t right = 0, total = 0;
  for (const auto& prompt : data::shapes::make_split().test) {
    RandomStream random({.seed = 3, .prompt = static_cast<uint64_t>(total), .purpose = Purpose::test});
    const std::vector<data::Sample> samples = {
        sample_of(data::shapes::render(data::shapes::draw_scene(prompt.json, random)), prompt.json)};
    right += reward->score(samples)[0].value == 1.0;
    ++total;
  }
  EXPECT_GE(static_cast<double>(right), 0.99 * static_cast<double>(total)) << right << " of " << total;
}

}  // namespace
}  // namespace unigrpo::reward
