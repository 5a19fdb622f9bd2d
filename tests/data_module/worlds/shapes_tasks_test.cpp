#include "data/worlds/shapes_tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"

namespace unigrpo::data::shapes {
namespace {

std::vector<std::string> lines() {
  std::vector<std::string> all;
  for (const WorldPrompt& prompt : make_split(300).train) all.push_back(prompt.json);
  return all;
}

RandomStream stream(uint64_t sample) {
  return RandomStream({.seed = 3, .sample = sample, .purpose = Purpose::world_scene});
}

int64_t count(const Scene& scene, const std::string& color, const std::string& shape) {
  return std::count_if(scene.begin(), scene.end(), [&](const Object& object) {
    return kColorNames[static_cast<size_t>(object.color)] == color &&
           kShapeNames[static_cast<size_t>(object.shape)] == shape;
  });
}

TEST(AnswerTask, TheAnswerIsWhatTheImageShows) {
  const std::vector<std::string> numbers = {"zero", "one", "two", "three", "four", "five"};
  std::map<std::string, int> answers;
  const auto prompts = lines();
  for (uint64_t i = 0; i < 600; ++i) {
    RandomStream random = stream(i);
    const TaskRow row = draw_answer_task(prompts[i % prompts.size()], 0, random);
    ++answers[row.text];
    EXPECT_EQ(nlohmann::json::parse(row.fields_json)["metadata"]["answer"], row.text);
    EXPECT_FALSE(row.drawn);
    if (row.tag == "count") {  // "how many red circles are there?"
      const size_t color = 9, shape = row.prompt.find(' ', color) + 1;
      const std::string asked_color = row.prompt.substr(color, shape - 1 - color);
      const std::string asked_shape = row.prompt.substr(shape, row.prompt.find("s are", shape) - shape);
      EXPECT_EQ(row.text, numbers[static_cast<size_t>(count(row.image, asked_color, asked_shape))]) << row.prompt;
    } else {
      const bool plural = row.prompt.starts_with("what color are the ");
      const std::string noun = row.prompt.substr(plural ? 19 : 18, row.prompt.size() - (plural ? 21 : 19));
      EXPECT_GE(count(row.image, row.text, noun), plural ? 2 : 1) << row.prompt;
    }
  }
  EXPECT_GT(answers["zero"], 10);
  EXPECT_GT(answers["one"], 10);
  EXPECT_GT(answers["three"], 10);
  EXPECT_GT(answers["red"], 10);
}

TEST(EditTask, ChangesOneClassAndLeavesTheRestWhereItWas) {
  std::set<std::string> tags;
  const auto prompts = lines();
  for (uint64_t i = 0; i < 300; ++i) {
    RandomStream random = stream(i);
    const TaskRow row = draw_edit_task(prompts[i % prompts.size()], 0, random);
    tags.insert(row.tag);
    const auto fields = nlohmann::json::parse(row.fields_json);
    const std::string changed = fields["metadata"]["changed"];
    ASSERT_TRUE(row.drawn);
    Scene kept_before, kept_after;
    for (const Object& object : row.image) {
      if (kShapeNames[static_cast<size_t>(object.shape)] != changed) kept_before.push_back(object);
    }
    for (const Object& object : *row.drawn) {
      if (kShapeNames[static_cast<size_t>(object.shape)] != changed) kept_after.push_back(object);
    }
    EXPECT_EQ(kept_after, kept_before) << row.prompt;
    EXPECT_NE(*row.drawn, row.image);
    int64_t wanted = 0;
    for (const auto& entry : fields["include"]) {
      EXPECT_EQ(count(*row.drawn, entry["color"], entry["class"]), entry["count"]) << row.prompt;
      wanted += entry["count"].get<int64_t>();
    }
    EXPECT_EQ(wanted, static_cast<int64_t>(row.drawn->size()));
    EXPECT_EQ(row.tag == "remove", row.drawn->size() < row.image.size());
    if (row.tag == "remove") {
      EXPECT_EQ(row.text, "<think> zero " + changed + "s </think>");
    } else {
      const auto is_changed = [&](const nlohmann::json& entry) { return entry["class"] == changed; };
      const auto entry = *std::find_if(fields["include"].begin(), fields["include"].end(), is_changed);
      const std::array names = {"one", "two", "three", "four"};
      const int number = entry["count"];
      EXPECT_EQ(row.text, "<think> " + std::string(names.at(number - 1)) + " " + entry["color"].get<std::string>() +
                              " " + changed + (number > 1 ? "s" : "") + " </think>");
    }
  }
  EXPECT_EQ(tags, (std::set<std::string>{"recolor", "remove"}));
}

TEST(SelfCorrectExample, TheFirstImageIsWrongAsOftenAsAskedAndTheSecondRight) {
  const auto prompts = lines();
  int wrong = 0;
  for (uint64_t i = 0; i < 400; ++i) {
    RandomStream random = stream(i);
    const SelfCorrectExample example =
        draw_self_correct_example(prompts[i % prompts.size()], {.scene_noise = 0.5}, random);
    EXPECT_EQ(example.first == example.second, example.first_fits) << example.prompt;
    if (example.first_fits) {
      EXPECT_EQ(example.verdict, "<think> right </think>");
    } else {
      ++wrong;
      EXPECT_EQ(example.verdict, "<think> wrong; " + example.plan.substr(8));
      EXPECT_LE(example.first.size(), 5U);
    }
    for (const Object& object : example.first) {
      EXPECT_GE(object.x - object.radius, 0);
      EXPECT_LE(object.x + object.radius, kImageSize);
    }
  }
  EXPECT_GT(wrong, 160);  // 200 +- 4 standard deviations of 10
  EXPECT_LT(wrong, 240);
}

TEST(SelfCorrectExample, AWrongPlanIsDrawnAndThenPutRight) {
  const auto prompts = lines();
  for (uint64_t i = 0; i < 100; ++i) {
    RandomStream random = stream(i), again = stream(i);
    const SelfCorrectExample example =
        draw_self_correct_example(prompts[i % prompts.size()], {.plan_noise = 1}, random);
    const SelfCorrectExample right = draw_self_correct_example(prompts[i % prompts.size()], {}, again);
    EXPECT_TRUE(example.first_fits);
    EXPECT_NE(example.plan, right.plan);
    EXPECT_EQ(example.verdict, "<think> wrong; " + right.plan.substr(8));
    EXPECT_EQ(example.second, right.second);
  }
}

TEST(Tasks, WrongOnesDifferInTheTextAndTheirFieldsStayRight) {
  const auto prompts = lines();
  for (uint64_t i = 0; i < 100; ++i) {
    const std::string& line = prompts[i % prompts.size()];
    RandomStream a = stream(i), b = stream(i), c = stream(i), d = stream(i);
    const TaskRow answer = draw_answer_task(line, 0, a), answer_noise = draw_answer_task(line, 1, b);
    EXPECT_EQ(answer.prompt, answer_noise.prompt);
    EXPECT_EQ(answer.fields_json, answer_noise.fields_json);
    EXPECT_NE(answer.text, answer_noise.text);
    const TaskRow edit = draw_edit_task(line, 0, c), wrong_edit = draw_edit_task(line, 1, d);
    EXPECT_EQ(edit.prompt, wrong_edit.prompt);
    EXPECT_EQ(edit.fields_json, wrong_edit.fields_json);
    EXPECT_NE(edit.text, wrong_edit.text);
    EXPECT_NE(*edit.drawn, *wrong_edit.drawn);
  }
}

TEST(DescribeTask, TellsEveryKindWithItsNumber) {
  const auto prompts = lines();
  for (uint64_t i = 0; i < 100; ++i) {
    RandomStream random = stream(i);
    const TaskRow row = draw_describe_task(prompts[i % prompts.size()], random);
    std::map<std::string, int> kinds;
    for (const Object& object : row.image) {
      ++kinds[std::string(kColorNames[static_cast<size_t>(object.color)]) + " " +
              kShapeNames[static_cast<size_t>(object.shape)]];
    }
    EXPECT_EQ(static_cast<size_t>(std::count(row.text.begin(), row.text.end(), ';')) + 1, kinds.size()) << row.text;
    for (const auto& [kind, count] : kinds) {
      const std::array names = {"one", "two", "three", "four"};
      EXPECT_NE(row.text.find(names.at(count - 1) + (" " + kind) + (count > 1 ? "s" : "")), std::string::npos)
          << row.text;
    }
  }
}

TEST(Tasks, LinesOfAnotherWorldAreRefused) {
  RandomStream random = stream(1);
  EXPECT_THROW(draw_answer_task(R"({"prompt": "a cat", "include": [{"class": "cat", "count": 1}]})", 0, random),
               BadInput);
}

}  // namespace
}  // namespace unigrpo::data::shapes
