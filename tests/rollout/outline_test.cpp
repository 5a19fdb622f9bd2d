#include "rollout/outline.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "grpo/minibatch_loss.h"
#include "grpo/update.h"
#include "rollout/deal.h"
#include "rollout/trajectory_bytes.h"
#include "support/tiny_rollout.h"

namespace unigrpo::rollout {
namespace {

class Outline : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model = testing::tiny_bagel().release();
    testing::make_texts_end(*model);
    RolloutConfig config = testing::tiny_rollout();
    config.episode = {testing::kText, testing::kImage, testing::kText, testing::kImage};
    all = new std::vector<Trajectory>(
        RolloutEngine(*model, config, {.seed = 11}, "").rollout(testing::request(prompts(), 3)));
  }
  static void TearDownTestSuite() {
    delete all;
    delete model;
  }
  static std::span<const data::Prompt> prompts() {
    static const auto list = testing::prompts({"a red circle", "two squares beside a star"});
    return list;
  }
  static policy::Bagel* model;
  static std::vector<Trajectory>* all;
};
policy::Bagel* Outline::model = nullptr;
std::vector<Trajectory>* Outline::all = nullptr;

TEST_F(Outline, TellsAllButTensorsAndPixels) {
  for (const Trajectory& t : *all) {
    const Trajectory told = from_outline(to_outline(t));
    EXPECT_TRUE(told.is_outline);
    EXPECT_FALSE(t.is_outline);
    EXPECT_EQ(told.prompt_index, t.prompt_index);
    EXPECT_EQ(told.sample_index, t.sample_index);
    EXPECT_EQ(told.segments, t.segments);
    ASSERT_EQ(told.texts.size(), 2U);
    ASSERT_EQ(told.flows.size(), 2U);
    for (size_t n = 0; n < 2; ++n) {
      EXPECT_EQ(told.texts[n].ids, t.texts[n].ids);
      EXPECT_EQ(told.texts[n].finished, t.texts[n].finished);
      EXPECT_TRUE(at::equal(told.texts[n].entropy, t.texts[n].entropy));
      EXPECT_EQ(told.flows[n].timesteps, t.flows[n].timesteps);
      EXPECT_EQ(told.flows[n].num_actions(), t.flows[n].num_actions());
      EXPECT_EQ(told.flows[n].stream().grid, t.flows[n].stream().grid);
      EXPECT_EQ(told.flows[n].stream().modality, "image");
      EXPECT_FALSE(told.flows[n].stream().latents.defined());
    }
    EXPECT_EQ(told.sample.id, t.sample.id);
    EXPECT_EQ(told.sample.prompt, t.sample.prompt);
    ASSERT_EQ(told.sample.segments.size(), t.sample.segments.size());
    EXPECT_EQ(told.sample.segments[0].text, t.sample.segments[0].text);
    EXPECT_TRUE(told.sample.segments[1].image.pixels.empty());
    EXPECT_FALSE(t.sample.segments[1].image.pixels.empty());
  }
}

TEST_F(Outline, CutShortItIsRefused) {
  const std::string bytes = to_outline(all->front());
  for (size_t length = 0; length < bytes.size(); length += 7) {
    EXPECT_THROW(from_outline(std::string_view(bytes).substr(0, length)), RuntimeFailure) << length;
  }
}

TEST_F(Outline, AParcelMakesItWhole) {
  std::vector<Trajectory> there;
  for (const Trajectory& t : *all) there.push_back(from_outline(to_outline(t)));
  const uint64_t version = (*all)[1].texts[0].fingerprint.weights_version;
  const std::string parcel = to_parcel(*all, std::vector<int64_t>{1, 4, 2}, version);
  open_parcel(parcel, version + 5, there);
  for (size_t i = 0; i < all->size(); ++i) {
    const bool came = i == 1 || i == 2 || i == 4;
    ASSERT_EQ(there[i].is_outline, !came) << i;
    if (!came) continue;
    const Trajectory& t = (*all)[i];
    EXPECT_EQ(policy::num_tokens(there[i].prefix), policy::num_tokens(t.prefix));
    for (size_t n = 0; n < 2; ++n) {
      EXPECT_TRUE(at::equal(there[i].texts[n].log_probs, t.texts[n].log_probs));
      EXPECT_TRUE(at::equal(there[i].flows[n].stream().latents, t.flows[n].stream().latents));
      EXPECT_TRUE(at::equal(there[i].flows[n].stream().velocities, t.flows[n].stream().velocities));
      EXPECT_EQ(policy::num_tokens(there[i].flows[n].context), policy::num_tokens(t.flows[n].context));
      Fingerprint same = there[i].texts[n].fingerprint;
      EXPECT_EQ(same.weights_version, version + 5);
      same.weights_version = version;
      EXPECT_EQ(first_difference(same, t.texts[n].fingerprint), "");
    }
    EXPECT_EQ(grpo::training_size(there[i]).pairs, grpo::training_size(t).pairs);
  }
  for (size_t length = 0; length < parcel.size(); length += 997) {
    EXPECT_THROW(open_parcel(std::string_view(parcel).substr(0, length), version, there), RuntimeFailure) << length;
  }
}

TEST_F(Outline, CountsAndMiniBatchesAreThoseOfTheWholeStepAndOwnRowsArePacked) {
  grpo::GrpoConfig config;
  config.num_minibatches = 2;
  config.image.step_weight = grpo::StepWeight::uniform;
  const std::vector<bool> keep = {true, true, false, true, true, true};
  const auto whole = grpo::plan_update(config, *all, keep);
  std::vector<Trajectory> here;  // the second group
  for (const Trajectory& t : *all) here.push_back(t.prompt_index == 1 ? t : from_outline(to_outline(t)));
  const auto part = grpo::plan_update(config, here, keep);
  ASSERT_EQ(part.size(), whole.size());
  for (size_t u = 0; u < whole.size(); ++u) {
    EXPECT_EQ(part[u].rows, whole[u].rows);
    const auto counts = grpo::count_turns(config, *all, whole[u].rows),
               same = grpo::count_turns(config, here, part[u].rows);
    ASSERT_EQ(same.text.size(), counts.text.size());
    for (size_t n = 0; n < counts.text.size(); ++n) {
      EXPECT_EQ(same.text[n].num_actions, counts.text[n].num_actions);
      EXPECT_EQ(same.flow.at("image")[n].sum_of_weights, counts.flow.at("image")[n].sum_of_weights);
    }
  }
  EXPECT_TRUE(part[0].micro_batches.empty());
  EXPECT_EQ(part[1].micro_batches, whole[1].micro_batches);
}

TEST_F(Outline, TheSharesOfRanksAreTheWholeStep) {
  RolloutConfig config = testing::tiny_rollout();
  const auto whole = RolloutEngine(*model, config, {.seed = 4}, "").rollout(testing::request(prompts(), 3));
  for (const int64_t ranks : {2, 5}) {
    std::map<std::pair<int64_t, int64_t>, Trajectory> dealt;
    std::map<int64_t, int64_t> judged;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      RolloutRequest request = testing::request(prompts(), 3);
      request.ranges = ranges_of({.num_prompts = 2, .group_size = 3, .rank = rank, .num_ranks = ranks});
      request.on_group = [&](int64_t p, const std::vector<data::Sample>& group) {
        judged[p] += static_cast<int64_t>(group.size());
      };
      for (Trajectory& t : RolloutEngine(*model, config, {.seed = 4}, "").rollout(request)) {
        dealt[{t.prompt_index, t.sample_index}] = std::move(t);
      }
    }
    EXPECT_EQ(judged, (std::map<int64_t, int64_t>{{0, 3}, {1, 3}}));
    ASSERT_EQ(dealt.size(), whole.size());
    for (const Trajectory& t : whole) {
      const Trajectory& own = dealt.at({t.prompt_index, t.sample_index});
      EXPECT_EQ(own.texts[0].ids, t.texts[0].ids);
      EXPECT_EQ(own.flows[0].window.first, t.flows[0].window.first);
      EXPECT_TRUE(at::allclose(own.flows[0].stream().latents, t.flows[0].stream().latents, 1e-5, 1e-5));
      EXPECT_EQ(own.sample.id, t.sample.id);
    }
  }
}

}  // namespace
}  // namespace unigrpo::rollout
