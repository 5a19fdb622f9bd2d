#include "train/evaluator.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "data/worlds/av_world.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "support/tiny_bagel.h"

namespace unigrpo::train {
namespace {

using testing::message_of;
using testing::TempFolder;

constexpr const char* kRows =
    "{\"prompt\": \"a star\", \"tag\": \"single_object\", \"include\": [{\"class\": \"star\", "
    "\"count\": 1}]}\n"
    "{\"prompt\": \"two stars\", \"tag\": \"counting\", \"include\": [{\"class\": \"star\", "
    "\"count\": 2}]}\n"
    "{\"prompt\": \"a red circle\", \"tag\": \"colors\", \"include\": [{\"class\": \"circle\", "
    "\"count\": 1, \"color\": "
    "\"red\"}]}\n"
    "{\"prompt\": \"a square\", \"tag\": \"single_object\", \"include\": [{\"class\": \"square\", "
    "\"count\": 1}]}\n";

class Evaluation : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { model = testing::tiny_bagel().release(); }
  static void TearDownTestSuite() { delete model; }

  EvalOptions options() const {
    EvalOptions o;
    o.model = "tiny";
    o.prompts = temp.write("p.jsonl", kRows).string();
    o.generation.num_steps = 3;
    o.generation.max_tokens = 4;
    o.keep_samples = -1;
    return o;
  }
  /// The JSON without the seconds.
  static nlohmann::json steady(const EvalOptions& o, const EvalResult& result) {
    nlohmann::json object = nlohmann::json::parse(to_json(o, result));
    EXPECT_GT(object["seconds"].get<double>(), 0);
    object.erase("seconds");
    return object;
  }
  static const Image& image(const EvalResult& result, size_t row) {
    return *result.samples.at(row).sample.last_image();
  }

  static policy::Bagel* model;
  const TempFolder temp;
};
policy::Bagel* Evaluation::model = nullptr;

TEST_F(Evaluation, TheSameSeedGivesTheSameImagesAndJsonAnotherSeedOthers) {
  EvalOptions o = options();
  const EvalResult first = evaluate(*model, o, {}), again = evaluate(*model, o, {});
  EXPECT_EQ(steady(o, first), steady(o, again));
  o.seed = 1;
  const EvalResult other = evaluate(*model, o, {});
  ASSERT_EQ(first.samples.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(image(first, i).pixels, image(again, i).pixels);
    EXPECT_NE(image(first, i).pixels, image(other, i).pixels);
  }
}

TEST_F(Evaluation, APromptsImageDoesNotDependOnTheRestOfTheFile) {
  const EvalOptions o = options();
  const EvalResult all = evaluate(*model, o, {});
  EvalOptions half = o;
  half.max_prompts = 2;  // rows 0 and 2, spread over the file
  const EvalResult some = evaluate(*model, half, {});
  ASSERT_EQ(some.samples.size(), 2U);
  EXPECT_EQ(some.samples[1].sample.prompt, "a red circle");
  for (size_t i = 0; i < 2; ++i) {
    const Image &a = image(some, i), &b = image(all, 2 * i);
    ASSERT_EQ(a.pixels.size(), b.pixels.size());
    for (size_t k = 0; k < a.pixels.size(); ++k) ASSERT_NEAR(a.pixels[k], b.pixels[k], 1);  // a grey level of rounding
  }
}

TEST_F(Evaluation, CountsPromptsNotImagesAndAveragesOverBoth) {
  EvalOptions o = options();
  o.num_samples = 3;
  o.rewards = {{.kind = reward::RewardKind::saturation}, {.name = "ink", .kind = reward::RewardKind::saturation}};
  const EvalResult result = evaluate(*model, o, {});
  EXPECT_EQ(result.samples.size(), 12U);
  EXPECT_EQ(result.overall.count, 4);
  EXPECT_EQ(result.tags.at("single_object").count, 2);
  EXPECT_EQ(result.tags.at("counting").count, 1);
  EXPECT_EQ(result.overall_by_tag.count, 3);
  double overall = 0, single = 0;
  for (size_t i = 0; i < 12; ++i) {
    overall += *result.samples[i].reward / 12;
    if (i / 3 == 0 || i / 3 == 3) single += *result.samples[i].reward / 6;
  }
  EXPECT_NEAR(*result.overall.strict.value, overall, 1e-12);
  EXPECT_NEAR(*result.rewards.at("saturation").mean, overall, 1e-12);
  EXPECT_EQ(result.rewards.at("ink").mean, result.rewards.at("saturation").mean);
  EXPECT_EQ(result.samples[0].scores.at("ink"), result.samples[0].reward);
  EXPECT_NEAR(*result.tags.at("single_object").strict.value, single, 1e-12);
  EXPECT_NEAR(*result.overall_by_tag.strict.value,
              (*result.tags.at("single_object").strict.value + *result.tags.at("counting").strict.value +
               *result.tags.at("colors").strict.value) /
                  3,
              1e-12);
  EXPECT_EQ(result.overall.unscored, 0);
}

TEST_F(Evaluation, TheStandardErrorIsThatOverPromptsNotOverTheirSamples) {
  EvalOptions o = options();
  o.num_samples = 3;
  o.rewards = {{.kind = reward::RewardKind::saturation}};
  const EvalResult result = evaluate(*model, o, {});
  std::vector<double> prompts(4, 0.0);
  for (size_t i = 0; i < 12; ++i) prompts[i / 3] += *result.samples[i].reward / 3;
  double squares = 0;
  for (const double value : prompts)
    squares += (value - *result.overall.strict.value) * (value - *result.overall.strict.value);
  EXPECT_NEAR(result.overall.strict.error.value(), std::sqrt(squares / 3 / 4), 1e-12);
  // Of two values a, b the std is |a - b| / sqrt(2), the error of the mean |a - b| / 2.
  EXPECT_NEAR(result.tags.at("single_object").strict.error.value(), std::abs(prompts[0] - prompts[3]) / 2, 1e-12);
  EXPECT_FALSE(result.tags.at("counting").strict.error.has_value());  // one prompt says nothing of a spread
  EXPECT_FALSE(result.overall_by_tag.strict.error.has_value());
  const nlohmann::json object = steady(o, result);
  EXPECT_EQ(object["overall"]["strict_error"], result.overall.strict.error.value());
  EXPECT_FALSE(object["tags"]["counting"].contains("strict_error"));
}

TEST_F(Evaluation, TheJsonHoldsWhatItsReadersExpect) {
  EvalOptions o = options();
  o.keep_samples = 0;
  const EvalResult result = evaluate(*model, o, {});
  EXPECT_TRUE(result.samples.empty());
  const nlohmann::json object = steady(o, result);
  EXPECT_EQ(object["model"], "tiny");
  EXPECT_EQ(object["reward"], "geneval");
  EXPECT_EQ(object["prompts"], o.prompts);
  EXPECT_EQ(object["num_prompts"], 4);
  EXPECT_EQ(object["seed"], 0);
  EXPECT_EQ(object["num_steps"], 3);
  EXPECT_EQ(object["cfg_scale"], 1.0);
  for (const char* part : {"overall", "overall_by_tag"}) {
    EXPECT_TRUE(object[part]["strict"].is_number()) << part;
    EXPECT_TRUE(object[part]["soft"].is_number()) << part;
  }
  EXPECT_EQ(object["tags"]["single_object"]["count"], 2);
}

/// A service that is not there.
reward::TermConfig dead_judge() {
  reward::TermConfig term{.name = "judge", .kind = reward::RewardKind::http};
  term.http.url = "http://127.0.0.1:9/";
  term.http.max_tries = 1;
  term.http.probe = false;
  term.http.timeout_s = 2;
  return term;
}

TEST_F(Evaluation, AScoreThatIsMissingIsNotZero) {
  EvalOptions o = options();
  o.rewards = {dead_judge(), {.kind = reward::RewardKind::saturation}};
  const EvalResult result = evaluate(*model, o, {});
  EXPECT_EQ(result.overall.strict.value, std::nullopt);
  EXPECT_EQ(result.overall_by_tag.soft.value, std::nullopt);
  EXPECT_EQ(result.overall.unscored, 4);
  EXPECT_EQ(result.tags.at("counting").strict.value, std::nullopt);
  EXPECT_EQ(result.rewards.at("judge").mean, std::nullopt);
  EXPECT_TRUE(result.rewards.at("saturation").mean);
  EXPECT_NE(describe(result).find("no score; 4 of 4 samples have no score by 'judge' (the first: "), std::string::npos)
      << describe(result);
  EXPECT_NE(to_table(result).find("mean of prompts         -        -        4"), std::string::npos)
      << to_table(result);

  const nlohmann::json object = steady(o, result);
  EXPECT_TRUE(object["overall"]["strict"].is_null());
  EXPECT_TRUE(object["rewards"]["judge"].is_null());
  EXPECT_EQ(object["missing"]["judge"]["samples"], 4);
  const StoredScores stored = scores_in(temp.write("eval.json", to_json(o, result)));
  EXPECT_EQ(stored.score, std::nullopt);
  EXPECT_EQ(stored.values, (std::map<std::string, double>{{"saturation", *result.rewards.at("saturation").mean}}));
}

TEST(Summary, ALossOfSamplesIsCountedAndUpToMaxDroppedLeftOut) {
  reward::ScoreTable table;
  table.terms = {"judge"};
  for (const double value : {1.0, 0.0, 1.0}) {
    table.scores.push_back({reward::Score{.value = value, .reason = "", .parts = {}}});
  }
  table.scores.push_back({reward::Score{.value = std::nullopt, .reason = "gone", .parts = {}}});
  const std::vector<std::string> tags = {"a", "a", "b", "b"};
  const reward::TermConfig judge{.kind = reward::RewardKind::http};
  EvalResult result = summarize(table, judge, tags, 2, 0.25);
  EXPECT_EQ(result.overall.strict.value, 0.75);  // of 0.5 and 1, not of 0.5 and 0.5
  EXPECT_EQ(result.overall.unscored, 1);
  EXPECT_EQ(result.tags.at("a").strict.value, 0.5);
  EXPECT_EQ(result.tags.at("b").strict.value, std::nullopt);  // half of it is missing
  EXPECT_EQ(result.rewards.at("judge").mean, 2.0 / 3);
  EXPECT_EQ(result.overall_by_tag.strict.value, std::nullopt);  // nor has a mean over tags one of these
  result = summarize(table, judge, tags, 2, 0.2);
  EXPECT_EQ(result.overall.strict.value, std::nullopt);
  EXPECT_EQ(result.rewards.at("judge").mean, std::nullopt);
  EXPECT_EQ(result.rewards.at("judge").reason, "gone");
}

TEST(Summary, WhatAPromptDoesNotAskForIsNoLoss) {
  reward::ScoreTable table;
  table.terms = {"av_quality", "av_sync"};
  const auto has = [](double value) { return reward::Score{.value = value, .reason = "", .parts = {}}; };
  const reward::Score not_asked{.value = std::nullopt, .reason = "no such thing", .parts = {}, .asked = false};
  table.scores = {{has(0.5), has(1)}, {has(1), not_asked}, {has(0), not_asked}, {has(0.5), not_asked}};
  const std::vector<std::string> tags = {"bounce", "camera", "camera", "side"};
  const EvalResult result = summarize(table, {.kind = reward::RewardKind::av_quality}, tags, 1, 0.1);
  EXPECT_EQ(result.rewards.at("av_quality").mean, 0.5);
  EXPECT_EQ(result.rewards.at("av_sync").mean, 1.0);
  EXPECT_EQ(result.rewards.at("av_sync").unscored, 0);
  for (auto& row : table.scores) std::swap(row[0], row[1]);
  std::swap(table.terms[0], table.terms[1]);
  const EvalResult sync = summarize(table, {.kind = reward::RewardKind::av_sync}, tags, 1, 0.1);
  EXPECT_EQ(sync.overall.score.value, 1.0);
  EXPECT_EQ(sync.overall.count, 1);  // prompts that ask for it
  EXPECT_EQ(sync.tags.size(), 1U);
  EXPECT_EQ(sync.num_samples, 4);
}

/// A term `geneval` with this metric, and its scores of samples whose official, strict and soft numbers these are.
EvalResult summary_of(reward::GenevalMetric metric, const std::vector<std::array<double, 3>>& samples,
                      const std::vector<std::string>& tags, int64_t num_samples) {
  reward::TermConfig term{.kind = reward::RewardKind::geneval};
  term.objects.metric = metric;
  reward::ScoreTable table;
  table.terms = {"geneval"};
  for (const auto& [value, strict, soft] : samples) {
    table.scores.push_back(
        {reward::Score{.value = value, .reason = "", .parts = {{"strict", strict}, {"soft", soft}}}});
  }
  return summarize(table, term, tags, num_samples, 0.25);
}

// Worked out by summary_scores.py of github.com/djghosh13/geneval: a tag's score is the mean over its images, the
// overall one that over the tags.
TEST(Summary, TheOfficialScoreIsTheMeanOfTagsOfTheOfficialNumber) {
  const EvalResult result = summary_of(reward::GenevalMetric::official,
                                       {{1, 0, 0.5}, {1, 0, 0.5}, {1, 1, 1}, {0, 0, 0.25}, {0, 0, 0}, {0, 0, 0.5}},
                                       {"counting", "counting", "counting", "counting", "position", "position"}, 2);
  EXPECT_EQ(result.metric, "official");
  EXPECT_EQ(result.tags.at("counting").score.value, 0.75);
  EXPECT_EQ(result.tags.at("counting").strict.value, 0.25);
  EXPECT_EQ(result.tags.at("position").score.value, 0.0);
  EXPECT_EQ(result.overall.score.value, 0.5);  // of prompts: 1, 0.5 and 0
  EXPECT_EQ(result.score().value, 0.375);
  EXPECT_EQ(result.score().error, std::nullopt);  // one prompt of a tag says nothing of its spread
  EXPECT_EQ(describe(result), "official 0.375, strict 0.167, soft 0.458");
  EXPECT_EQ(to_table(result),
            "tag              official   strict     soft  prompts\n"
            "counting            0.750    0.250    0.562        2\n"
            "position            0.000    0.000    0.250        1\n"
            "mean of prompts     0.500    0.167    0.458        3\n"
            "mean of tags        0.375    0.125    0.406\n"
            "the official score is the mean of tags\n");
  const TempFolder temp;
  const std::string json = to_json({}, result);
  EXPECT_EQ(nlohmann::json::parse(json)["tags"]["counting"]["official"], 0.75);
  const StoredScores stored = scores_in(temp.write("eval.json", json));
  EXPECT_EQ(stored.score, 0.375);
  EXPECT_EQ(stored.values.at("official"), 0.375);
  EXPECT_NEAR(stored.values.at("strict"), 1.0 / 6, 1e-12);
}

TEST(Summary, TheMetricThatTheTermNamesIsTheOneThatCounts) {
  const std::vector<std::array<double, 3>> samples = {{0.75, 0.5, 1}, {0.25, 0, 0.5}};
  const std::vector<std::string> tags = {"a", "b"};
  const EvalResult mixed = summary_of(reward::GenevalMetric::mixed, samples, tags, 1);
  EXPECT_EQ(mixed.score().value, 0.5);
  EXPECT_EQ(describe(mixed), "mixed 0.500, strict 0.250, soft 0.750");
  const EvalResult strict = summary_of(reward::GenevalMetric::strict, {{0.5, 0.5, 1}, {0, 0, 0.5}}, tags, 1);
  EXPECT_EQ(strict.score().value, 0.25);
  EXPECT_EQ(describe(strict), "strict 0.250, soft 0.750");
  EXPECT_EQ(to_json({}, strict).find("\"mixed\""), std::string::npos);
  const EvalResult soft = summary_of(reward::GenevalMetric::soft, {{1, 0.5, 1}, {0.5, 0, 0.5}}, tags, 1);
  EXPECT_EQ(soft.metric, "soft");
  EXPECT_EQ(soft.score().value, 0.75);
  EXPECT_EQ(soft.overall.strict.value, 0.25);
}

// A part of another reward that happens to be called so is not its score.
TEST(Summary, APluginsOwnNumberCountsWhateverItsPartsAreCalled) {
  reward::ScoreTable table;
  table.terms = {"mine"};
  table.scores.push_back({reward::Score{.value = 0.75, .reason = "", .parts = {{"strict", 0.0}}}});
  const EvalResult result = summarize(table, {.kind = reward::RewardKind::plugin}, std::vector<std::string>{""}, 1, 0);
  EXPECT_EQ(result.score().value, 0.75);
  EXPECT_EQ(result.overall.strict.value, 0.75);
}

TEST_F(Evaluation, WithoutRewardsTheRowsSayWhatJudgesThem) {
  EvalOptions o = options();
  o.rewards = {};
  const Evaluator evaluator(o, {});
  ASSERT_EQ(evaluator.rewards().size(), 1U);
  EXPECT_EQ(evaluator.rewards()[0].kind, reward::RewardKind::geneval);
  EXPECT_EQ(evaluator.rewards()[0].objects.metric, reward::GenevalMetric::strict);
  const data::av::Draw draw;
  const auto row = data::av::row_of(data::av::scene_of(draw), "a", draw);
  data::Prompt clip;
  clip.metadata_json = row;
  const std::vector<reward::TermConfig> of_clips = default_eval_rewards(clip, "f");
  EXPECT_EQ(of_clips.size(), 8U);
  EXPECT_EQ(of_clips[0].kind, reward::RewardKind::av_quality);
  o.prompts = temp.write("bare.jsonl", "\n{\"prompt\": \"x\"}\n").string();
  EXPECT_TRUE(message_of<BadInput>([&] { Evaluator(o, {}); }).starts_with(o.prompts + ":2: no reward goes by itself"));
}

TEST_F(Evaluation, TheTruePlanStandsInForTheModelsOwnText) {
  EvalOptions o = options();
  o.oracle_plan = true;
  const EvalResult result = evaluate(*model, o, {});
  const EvalResult own = evaluate(*model, options(), {});
  EXPECT_NE(result.samples[0].sample.segments[0].text, own.samples[0].sample.segments[0].text);
  EXPECT_NE(result.samples[2].sample.segments[0].text.find("red"), std::string::npos)
      << result.samples[2].sample.segments[0].text;
}

TEST_F(Evaluation, NamesTheLineThatTheRewardCannotJudge) {
  EvalOptions o = options();
  o.prompts = temp.write("bad.jsonl", std::string(kRows) + "{\"prompt\": \"x\"}\n").string();
  const std::string message = message_of<BadInput>([&] { evaluate(*model, o, {}); });
  EXPECT_TRUE(message.starts_with(o.prompts + ":5: ")) << message;
  EXPECT_EQ(message_of<BadInput>([&] { Evaluator(o, {}); }), message);
  o.rewards = {{.kind = reward::RewardKind::saturation}};
  EXPECT_EQ(message_of<BadInput>([&] { Evaluator(o, {}); }), "nothing");
}

}  // namespace
}  // namespace unigrpo::train
