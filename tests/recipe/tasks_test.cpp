#include "recipe/tasks.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "recipe/support.h"

namespace unigrpo::recipe {
namespace {

using Counts = std::vector<int64_t>;

std::vector<Task> with_shares(const std::vector<double>& shares) {
  std::vector<Task> tasks;
  for (const double share : shares) tasks.emplace_back().share.points = {{.step = 0, .share = share}};
  return tasks;
}

const std::string kTasks =
    "[policy]\nmodel = \"m\"\n"
    "[[rewards]]\nkind = \"geneval\"\n"
    "[[rewards]]\nkind = \"answer\"\nname = \"right\"\n"
    "[[tasks]]\nname = \"draw\"\nprompts = \"d.jsonl\"\nrewards = [\"geneval\"]\nshare = 3\nnum_steps = 8\n"
    "[[tasks]]\nname = \"ask\"\nprompts = \"a.jsonl\"\nepisode = [\"text\"]\nrewards = [\"right\"]\nmax_tokens = 7\n";

TEST(Tasks, ARecipeWithoutThemIsAListOfOne) {
  const Recipe recipe = accepted(kShortest);
  const std::vector<Task> tasks = tasks_of(recipe);
  ASSERT_EQ(tasks.size(), 1U);
  EXPECT_FALSE(tasks[0].is_named());
  EXPECT_EQ(tasks[0].prompts, "p.jsonl");
  EXPECT_EQ(tasks[0].at(recipe, "prompts"), "");
  EXPECT_EQ(tasks[0].rollout.max_tokens, recipe.rollout.max_tokens);
  EXPECT_EQ(tasks[0].reward.terms.size(), 1U);
  EXPECT_EQ(prompts_of(tasks, 12, 7), Counts{12});
}

TEST(Tasks, HaveWhatTheySetAndTheRestOfTheRecipe) {
  const Recipe recipe = parse_text(kTasks, "FILE", {}, Command::train);
  const std::vector<Task> tasks = tasks_of(recipe);
  ASSERT_EQ(tasks.size(), 2U);
  EXPECT_EQ(tasks[0].prompts, "d.jsonl");
  EXPECT_EQ(tasks[0].rollout.episode, recipe.rollout.episode);
  EXPECT_EQ(tasks[0].rollout.num_steps, 8);
  EXPECT_EQ(tasks[0].rollout.max_tokens, 48);
  ASSERT_EQ(tasks[0].reward.terms.size(), 1U);
  EXPECT_EQ(tasks[0].reward.terms[0].kind, reward::RewardKind::geneval);
  EXPECT_EQ(tasks[1].rollout.episode, std::vector<data::SegmentKind>{data::SegmentKind::text});
  EXPECT_EQ(tasks[1].rollout.num_steps, 10);
  EXPECT_EQ(tasks[1].terms, std::vector<size_t>{1});
  EXPECT_EQ(tasks[1].at(recipe, "episode"), "FILE:17:11: tasks.1.episode: ");
  EXPECT_EQ(tasks[0].at(recipe, "episode"), "tasks.0.episode: ");
  EXPECT_EQ(joint_rollout(tasks).max_tokens, 48);
  EXPECT_EQ(joint_rollout(std::span(tasks).subspan(1)).max_tokens, 7);
  EXPECT_EQ(prompts_of(tasks, 12, 0), (Counts{9, 3}));
}

TEST(Tasks, SharesAreWholePromptsByLargestRemainder) {
  EXPECT_EQ(prompts_of(with_shares({1, 1, 1}), 10, 0), (Counts{4, 3, 3}));  // equal ones: the first
  EXPECT_EQ(prompts_of(with_shares({0.5, 0.3, 0.2}), 10, 0), (Counts{5, 3, 2}));
  EXPECT_EQ(prompts_of(with_shares({0.1, 0.2, 0.7}), 10, 0), (Counts{1, 2, 7}));
  EXPECT_EQ(prompts_of(with_shares({47, 16, 15.8, 12, 6.1, 3.1}), 10, 0), (Counts{5, 2, 1, 1, 1, 0}));
  EXPECT_EQ(prompts_of(with_shares({0, 2}), 3, 0), (Counts{0, 3}));
  EXPECT_EQ(prompts_of(with_shares({1e6, 1e-6}), 3, 0), (Counts{3, 0}));
  for (int64_t prompts = 1; prompts < 60; ++prompts) {
    const Counts counts = prompts_of(with_shares({0.37, 1.9, 0.01, 3}), prompts, 0);
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), prompts);
  }
}

TEST(Tasks, ASchedulesSharesLieOnStraightLines) {
  Share share{.points = {{10, 1}, {20, 3}, {40, 0}}};
  EXPECT_EQ(share.at(0), 1);
  EXPECT_EQ(share.at(10), 1);
  EXPECT_EQ(share.at(15), 2);
  EXPECT_EQ(share.at(20), 3);
  EXPECT_EQ(share.at(30), 1.5);
  EXPECT_EQ(share.at(1000), 0);
  std::vector<Task> tasks = with_shares({1, 1});
  tasks[1].share = {.points = {{0, 0}, {4, 1}}};
  EXPECT_EQ(prompts_of(tasks, 4, 0), (Counts{4, 0}));
  EXPECT_EQ(prompts_of(tasks, 4, 2), (Counts{3, 1}));
  EXPECT_EQ(prompts_of(tasks, 4, 9), (Counts{2, 2}));
  EXPECT_EQ(changes_of(tasks, 4, 100, 9), (Counts{0, 1, 3}));
  EXPECT_EQ(changes_of(tasks, 4, 3, 9), (Counts{0, 1}));
  EXPECT_EQ(changes_of(tasks, 4, 100, 1), Counts{0});
}

TEST(Tasks, ASharesScheduleIsWrittenAndReadBack) {
  const Recipe recipe = accepted(kTasks, {"tasks.1.share=[[0, 0.5], [10, 2]]"});
  EXPECT_EQ(recipe.tasks[1].share.points.size(), 2U);
  EXPECT_NE(to_toml(recipe).find("share = [[0, 0.5], [10, 2.0]]"), std::string::npos) << to_toml(recipe);
  EXPECT_EQ(differing_keys(recipe, accepted(kTasks)), std::vector<std::string>{"tasks.1.share"});
  EXPECT_TRUE(differing_keys(recipe, accepted(to_toml(recipe))).empty());
}

TEST(Tasks, WhatIsWrongIsToldWithItsPlace) {
  struct Case {
    std::string from, to, message;
  };
  const std::vector<Case> cases = {
      {"name = \"ask\"", "name = \"draw\"",
       "FILE:15:8: tasks.1.name: expected a name of its own, got \"draw\" as another"},
      {"name = \"ask\"", "name = \"a/b\"",
       "FILE:15:8: tasks.1.name: expected a name of letters, digits and _ - (1 to 64)"},
      {"share = 3", "share = -1", "FILE:12:9: tasks.0.share: expected a number from 0 to 1e6, or a list of points"},
      {"share = 3", "share = nan", "FILE:12:9: tasks.0.share: expected a number"},
      {"share = 3", "share = []", "FILE:12:9: tasks.0.share: expected a number"},
      {"share = 3", "share = [[5, 1], [5, 2]]",
       "FILE:12:18: tasks.0.share.1: expected a point [step, share], its step an integer >= 6 (they increase), its "
       "share a "
       "number from 0 to 1e6, got [5, 2]"},
      {"share = 3", "share = [[0, 1], [9, -2]]", "FILE:12:18: tasks.0.share.1: expected a point [step, share]"},
      {"share = 3", "share = [[0, nan]]", "FILE:12:10: tasks.0.share.0: expected a point [step, share]"},
      {"share = 3", "share = [0, 1]", "FILE:12:10: tasks.0.share.0: expected a point [step, share]"},
      {"rewards = [\"right\"]", "rewards = [\"write\"]",
       "FILE:18:11: tasks.1.rewards: expected names of [[rewards]] (geneval, right), got \"write\""},
      {"[[tasks]]\nname = \"draw\"", "[data]\nprompts = \"p.jsonl\"\n[[tasks]]\nname = \"draw\"",
       "FILE:9:11: data.prompts: expected no such key beside [[tasks]]"},
      {"episode = [\"text\"]", "episode = [\"image\"]",
       "FILE:6:8: rewards.1.kind: expected \"text\" in rollout.episode"},
      {"num_steps = 8", "num_steps = 1", "FILE:13:13: rollout.window.width: expected first + width of at most"},
      {"prompts = \"a.jsonl\"\n", "", "FILE: tasks.1.prompts: missing (string: its prompt file"},
  };
  for (const Case& each : cases) {
    std::string text = kTasks;
    ASSERT_NE(text.find(each.from), std::string::npos) << each.from;
    text.replace(text.rfind(each.from), each.from.size(), each.to);
    const std::string message = refusal(text, {}, Command::train);
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_TRUE(message.starts_with(each.message)) << message << "\n" << each.message;
  }
  EXPECT_EQ(
      refusal(kTasks, {"tasks.0.share=0", "tasks.1.share=0"}, Command::train),
      "--set tasks.0.share=0: tasks.0.share: expected a share above 0 of one task at least, after 0 steps all are 0");
  EXPECT_TRUE(refusal(kTasks, {"tasks.0.share=[[0,1],[7,0]]", "tasks.1.share=[[0,1],[5,0]]"}, Command::train)
                  .ends_with("after 7 steps all are 0"));
}

TEST(Tasks, AreFoundFaultWithByTheirOwnNames) {
  // A gate that is another task's reward.
  const std::string message = refusal(kTasks, {"rewards.1.gate=geneval"}, Command::train);
  EXPECT_EQ(message,
            "--set rewards.1.gate=geneval: rewards.1.gate: expected the name of another reward term, got \"geneval\" "
            "(task \"ask\")");
  EXPECT_EQ(refusal(kTasks, {"tasks.1.rewards=[]", "tasks.1.episode=[]"}, Command::train), "accepted");
}

}  // namespace
}  // namespace unigrpo::recipe
