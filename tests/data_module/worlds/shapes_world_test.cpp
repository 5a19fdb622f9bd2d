#include "data/worlds/shapes_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/hash.h"
#include "io/atomic_file.h"
#include "support/temp_folder.h"

namespace unigrpo::data::shapes {
namespace {

RandomStream stream(uint64_t sample) {
  return RandomStream({.seed = 7, .sample = sample, .purpose = Purpose::world_scene});
}

const std::vector<WorldPrompt>& all_prompts() {
  static const std::vector<WorldPrompt> prompts = [] {
    WorldSplit split = make_split(1'000'000);
    std::vector<WorldPrompt> all = std::move(split.train);
    all.insert(all.end(), split.validation.begin(), split.validation.end());
    all.insert(all.end(), split.test.begin(), split.test.end());
    return all;
  }();
  return prompts;
}

std::string json_of(std::string_view text) {
  for (const WorldPrompt& prompt : all_prompts()) {
    if (prompt.text == text) return prompt.json;
  }
  return "";
}

const char* kTwoLeftOfOne = R"({"tag": "compositional", "include": [{"class": "square", "count": 1, "color": "blue"}, )"
                            R"({"class": "circle", "count": 2, "color": "red", "position": ["left of", 0]}], )"
                            R"("prompt": "two red circles left of a blue square"})";

TEST(ShapesWorld, WordsAndSchemaFollowGeneval) {
  EXPECT_EQ(json_of("a circle"),
            R"({"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a circle"})");
  EXPECT_EQ(json_of("a circle and a square"),
            R"({"tag": "two_object", "include": [{"class": "circle", "count": 1}, {"class": "square", "count": 1}], )"
            R"("prompt": "a circle and a square"})");
  EXPECT_EQ(json_of("three circles"), R"({"tag": "counting", "include": [{"class": "circle", "count": 3}], )"
                                      R"("exclude": [{"class": "circle", "count": 4}], "prompt": "three circles"})");
  EXPECT_EQ(json_of("an orange star"),
            R"({"tag": "colors", "include": [{"class": "star", "count": 1, "color": "orange"}], )"
            R"("prompt": "an orange star"})");
  EXPECT_EQ(json_of("a circle left of a square"),
            R"({"tag": "position", "include": [{"class": "square", "count": 1}, )"
            R"({"class": "circle", "count": 1, "position": ["left of", 0]}], "prompt": "a circle left of a square"})");
  EXPECT_EQ(json_of("a red circle and a blue square"),
            R"({"tag": "color_attr", "include": [{"class": "circle", "count": 1, "color": "red"}, )"
            R"({"class": "square", "count": 1, "color": "blue"}], "prompt": "a red circle and a blue square"})");
  EXPECT_EQ(json_of("two red circles left of a blue square"), kTwoLeftOfOne);
}

TEST(ShapesWorld, EveryPromptIsMadeOnce) {
  std::map<std::string, int> counts;
  std::set<std::string> texts;
  for (const WorldPrompt& prompt : all_prompts()) {
    ++counts[prompt.tag];
    EXPECT_TRUE(texts.insert(prompt.text).second) << prompt.text;
  }
  EXPECT_EQ(counts, (std::map<std::string, int>{{"single_object", 4},
                                                {"two_object", 12},
                                                {"counting", 12},
                                                {"colors", 24},
                                                {"position", 48},
                                                {"color_attr", 360},
                                                {"compositional", 5184}}));
}

TEST(ShapesWorld, SplitsEachTagByHashWithoutOverlap) {
  const WorldSplit split = make_split();
  std::map<std::string, std::array<std::vector<std::string>, 3>> by_tag;
  for (const auto& prompt : split.test) by_tag[prompt.tag][0].push_back(prompt.text);
  for (const auto& prompt : split.validation) by_tag[prompt.tag][1].push_back(prompt.text);
  for (const auto& prompt : split.train) by_tag[prompt.tag][2].push_back(prompt.text);
  ASSERT_EQ(by_tag.size(), 7u);
  for (const auto& [tag, parts] : by_tag) {
    const size_t total = parts[0].size() + parts[1].size() + parts[2].size();
    EXPECT_EQ(parts[0].size(), std::max<size_t>(total / 5, 1)) << tag;
    EXPECT_EQ(parts[1].size(), total / 10) << tag;
    std::vector<uint64_t> hashes;
    for (const auto& part : parts) {
      for (const auto& text : part) hashes.push_back(fnv1a64(text));
    }
    EXPECT_TRUE(std::is_sorted(hashes.begin(), hashes.end())) << tag;
    EXPECT_EQ(std::set<uint64_t>(hashes.begin(), hashes.end()).size(), total) << tag;
  }
  EXPECT_EQ(by_tag["compositional"][2].size(), 1400u);
}

TEST(ShapesWorld, PlanStatesGroupsInIncludeOrderWithTheirPlaces) {
  RandomStream random = stream(0);
  const Example example = draw_example(kTwoLeftOfOne, {}, random);
  EXPECT_EQ(example.prompt, "two red circles left of a blue square");
  EXPECT_EQ(example.plan, "<think> one blue square on the right; two red circles on the left </think>");
  EXPECT_EQ(example.oracle_plan, example.plan);
  EXPECT_EQ(example.scene.size(), 3u);

  const Example orange = draw_example(json_of("an orange star"), {}, random);
  EXPECT_EQ(orange.plan, "<think> one orange star </think>");
}

TEST(ShapesWorld, DrawIsAFunctionOfTheStream) {
  const NoiseConfig noise = {.plan_noise = 0.5, .scene_noise = 0.5};
  for (uint64_t sample = 0; sample < 50; ++sample) {
    RandomStream first = stream(sample), second = stream(sample);
    const Example a = draw_example(kTwoLeftOfOne, noise, first);
    const Example b = draw_example(kTwoLeftOfOne, noise, second);
    EXPECT_EQ(a.plan, b.plan);
    EXPECT_EQ(a.scene, b.scene);
  }
  RandomStream first = stream(1), second = stream(2);
  EXPECT_NE(draw_scene(kTwoLeftOfOne, first), draw_scene(kTwoLeftOfOne, second));
}

TEST(ShapesWorld, OpenColoursAreDrawnUniformlyAndStated) {
  std::map<std::string, int> plans;
  const std::string json = json_of("three circles");
  for (uint64_t sample = 0; sample < 600; ++sample) {
    RandomStream random = stream(sample);
    ++plans[draw_example(json, {}, random).plan];
  }
  EXPECT_EQ(plans.size(), 6u);
  for (const auto& [plan, count] : plans) EXPECT_NEAR(count, 100, 45) << plan;  // about 5 sigma
}

TEST(ShapesWorld, ObjectsKeepApartAndInsideTheImage) {
  uint64_t sample = 0;
  for (const WorldPrompt& prompt : all_prompts()) {
    for (const double noise : {0.0, 1.0}) {
      RandomStream random = stream(++sample);
      const Example example = draw_example(prompt.json, {.plan_noise = noise, .scene_noise = noise}, random);
      const Scene& scene = example.scene;
      ASSERT_GE(scene.size(), 1u);
      ASSERT_LE(scene.size(), 5u);
      for (size_t i = 0; i < scene.size(); ++i) {
        const Object& a = scene[i];
        EXPECT_GE(a.radius, 4.5) << example.plan;
        EXPECT_GE(std::min({a.x, a.y, kImageSize - a.x, kImageSize - a.y}), a.radius + 2 - 1e-9);
        for (size_t j = i + 1; j < scene.size(); ++j) {
          EXPECT_GE(std::hypot(a.x - scene[j].x, a.y - scene[j].y), a.radius + scene[j].radius + 2 - 1e-9);
        }
      }
    }
  }
}

TEST(ShapesWorld, EveryPairOfTheGroupsStandsClearlyInTheRelation) {
  const auto check = [](const std::string& json, int placed_first, auto holds) {
    for (uint64_t sample = 0; sample < 100; ++sample) {
      RandomStream random = stream(sample);
      const Scene scene = draw_scene(json, random);
      for (size_t i = static_cast<size_t>(placed_first); i < scene.size(); ++i) {
        EXPECT_TRUE(holds(bounds(scene[i]), bounds(scene[0]))) << json;
      }
    }
  };
  const auto strength = [](double along, double across, double sizes) {
    return (along - 0.1 * sizes) / std::hypot(along, across);
  };
  for (const std::string count : {"two", "three"}) {
    const auto text = [&](const std::string& relation) {
      return json_of(count + " green stars " + relation + " a red square");
    };
    check(text("left of"), 1, [&](const Box& a, const Box& b) {
      return strength(b.center_x() - a.center_x(), b.center_y() - a.center_y(), a.width() + b.width()) >= 0.59;
    });
    check(text("right of"), 1, [&](const Box& a, const Box& b) {
      return strength(a.center_x() - b.center_x(), b.center_y() - a.center_y(), a.width() + b.width()) >= 0.59;
    });
    check(text("above"), 1, [&](const Box& a, const Box& b) {
      return strength(b.center_y() - a.center_y(), b.center_x() - a.center_x(), a.height() + b.height()) >= 0.59;
    });
    check(text("below"), 1, [&](const Box& a, const Box& b) {
      return strength(a.center_y() - b.center_y(), b.center_x() - a.center_x(), a.height() + b.height()) >= 0.59;
    });
  }
}

TEST(ShapesWorld, WrongPlansDifferFromTheTrueOneInOneFact) {
  std::set<std::string> wrong;
  for (uint64_t sample = 0; sample < 400; ++sample) {
    RandomStream random = stream(sample);
    const Example example = draw_example(kTwoLeftOfOne, {.plan_noise = 1.0}, random);
    EXPECT_NE(example.plan, example.oracle_plan);
    wrong.insert(example.plan);
    RandomStream single = stream(sample);
    const Example circle = draw_example(json_of("a circle"), {.plan_noise = 1.0}, single);
    EXPECT_EQ(circle.plan.find("circle"), std::string::npos) << circle.plan;
    EXPECT_EQ(circle.scene.size(), 1u);
  }
  EXPECT_TRUE(wrong.count("<think> one blue square on the left; two red circles on the right </think>"));
  EXPECT_TRUE(wrong.count("<think> one blue square on the right; three red circles on the left </think>"));
  EXPECT_TRUE(wrong.count("<think> one blue square on the right; two green circles on the left </think>"));
  EXPECT_TRUE(wrong.count("<think> one blue star on the right; two red circles on the left </think>"));
  EXPECT_EQ(wrong.size(),
            1u + 3u + 10u + 4u);  // side, counts (1 -> 2, 2 -> 1, 2 -> 3), colours, classes
}

TEST(ShapesWorld, WrongScenesLeaveThePlanTrue) {
  int other_count = 0;
  for (uint64_t sample = 0; sample < 400; ++sample) {
    RandomStream random = stream(sample);
    const Example example = draw_example(kTwoLeftOfOne, {.scene_noise = 1.0}, random);
    EXPECT_EQ(example.plan, example.oracle_plan);
    other_count += example.scene.size() != 3;
  }
  EXPECT_NEAR(other_count, 160, 50);  // two of five faults, 5 sigma
}

TEST(ShapesWorld, RendersColoursOnTheLightBackground) {
  const Image image = render({{Shape::square, Color::blue, 20, 30, 8}, {Shape::star, Color::orange, 45, 30, 8}});
  ASSERT_EQ(image.width, kImageSize);
  ASSERT_EQ(image.pixels.size(), size_t{3} * kImageSize * kImageSize);
  const auto pixel = [&](int x, int y) {
    const uint8_t* p = image.at(x, y);
    return std::array<uint8_t, 3>{p[0], p[1], p[2]};
  };
  EXPECT_EQ(pixel(20, 30), kColorRgb[static_cast<size_t>(Color::blue)]);
  EXPECT_EQ(pixel(45, 30), kColorRgb[static_cast<size_t>(Color::orange)]);
  EXPECT_EQ(pixel(0, 0), kBackgroundRgb);
  EXPECT_NE(pixel(44, 23), kBackgroundRgb);  // the star's upper tip
  EXPECT_EQ(pixel(41, 25), kBackgroundRgb);  // between two tips
}

TEST(ShapesWorld, DrawnAreaIsTheShapesArea) {
  const std::array<double, 4> area_of_unit = {std::acos(-1.0), 2.0, 3 * std::sqrt(3.0) / 4, 1.12257};
  for (size_t s = 0; s < area_of_unit.size(); ++s) {
    const Image image = render({{static_cast<Shape>(s), Color::blue, 31.3, 32.7, 12}});
    double ink = 0;  // from the red channel, which blue covers nearly whole
    for (int y = 0; y < kImageSize; ++y) {
      for (int x = 0; x < kImageSize; ++x) ink += (250.0 - image.at(x, y)[0]) / (250.0 - 45.0);
    }
    EXPECT_NEAR(ink / 144, area_of_unit[s], 0.02 * area_of_unit[s]) << kShapeNames[s];
  }
}

TEST(ShapesWorld, RefusesLinesOfOtherWorlds) {
  const auto refuse = [](std::string_view line, const std::string& part) {
    RandomStream random = stream(0);
    try {
      draw_scene(line, random);
      ADD_FAILURE() << "accepted " << line;
    } catch (const BadInput& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refuse(R"({"prompt": "a cat", "include": [{"class": "cat", "count": 1}]})", "'cat'");
  refuse(R"({"prompt": "a circle"})", "'include'");
  refuse(R"({"prompt": "x", "include": [{"class": "circle", "count": 9}]})", "'count'");
  refuse(R"({"prompt": "x", "include": [{"class": "circle", "count": 1, "color": "pink"}]})", "'pink'");
  refuse(R"({"prompt": )", "invalid JSON");
}

TEST(ShapesWorld, WritesTheThreeFilesOfTheSplitAndTheShippedOnesAreThose) {
  const unigrpo::testing::TempFolder folder;
  write_world(folder.path() / "world", make_split());
  for (const char* name : {"train.jsonl", "validation.jsonl", "test.jsonl"}) {
    const std::string text = io::read_text_file(folder.path() / "world" / name);
    EXPECT_EQ(text, io::read_text_file(std::filesystem::path(UNIGRPO_SOURCE_DIR) / "assets/shapes-world" / name));
  }
  const std::string test = io::read_text_file(folder.path() / "world" / "test.jsonl");
  EXPECT_EQ(std::count(test.begin(), test.end(), '\n'), 490);
}

}  // namespace
}  // namespace unigrpo::data::shapes
