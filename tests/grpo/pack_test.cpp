#include "grpo/pack.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "support/tensors.h"
#include "support/tiny_rollout.h"

namespace unigrpo::grpo {
namespace {

using rollout::FlowSegment;
using rollout::TextSegment;
using rollout::Trajectory;
using testing::close;

/// A trajectory of `num_text` sampled tokens and, with width > 0, an image of 16 tokens.
Trajectory made_up(int64_t prompt, int64_t prefix, int64_t num_text, int64_t width) {
  Trajectory t;
  t.prompt_index = prompt;
  t.prefix = {policy::TextBlock{std::vector<int64_t>(static_cast<size_t>(prefix), 7)}};
  TextSegment text;
  text.ids.assign(num_text, 9);
  t.segments = {data::SegmentKind::text};
  t.texts.push_back(text);
  if (width > 0) {
    FlowSegment image;
    image.window = {0, width};
    image.streams.emplace_back().grid = {4, 4};
    t.segments.push_back(data::SegmentKind::image);
    t.flows.push_back(image);
  }
  return t;
}

TEST(PlanMicroBatches, CountsASharedPrefixOnceAndKeepsTheOrder) {
  // Each row adds 4 + 2 + 2 * 18 = 42 tokens; a prefix 10.
  std::vector<Trajectory> all;
  for (int64_t i = 0; i < 6; ++i) all.push_back(made_up(i / 3, 10, 4, 2));
  EXPECT_EQ(training_tokens(all[0]), 42);
  const std::vector<int64_t> rows = {0, 1, 2, 3, 4, 5};
  using Plan = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(plan_micro_batches(all, rows, 1000), (Plan{{0, 1, 2, 3, 4, 5}}));
  EXPECT_EQ(plan_micro_batches(all, rows, 94), (Plan{{0, 1}, {2}, {3, 4}, {5}}));  // 10 + 2 * 42
  EXPECT_EQ(plan_micro_batches(all, rows, 93), (Plan{{0}, {1}, {2}, {3}, {4}, {5}}));
  EXPECT_EQ(plan_micro_batches(all, rows, 1), (Plan{{0}, {1}, {2}, {3}, {4}, {5}}));  // each alone, over the budget
  EXPECT_EQ(plan_micro_batches(all, std::vector<int64_t>{}, 94), Plan{});
  EXPECT_EQ(plan_micro_batches(all, std::vector<int64_t>{5, 0}, 1000), (Plan{{5, 0}}));
}

TEST(TrainingSize, CountsThePrefixAndThePairsThatSeeEachOther) {
  const Trajectory t = made_up(0, 10, 4, 2);
  const TrainingSize size = training_size(t);
  EXPECT_EQ(size.tokens, 10 + training_tokens(t));
  EXPECT_EQ(size.prefix_tokens, 10);
  EXPECT_EQ(size.prefix_pairs, 55);
  // Causal prefix and text; each of two noisy states of 18 tokens sees both and itself.
  EXPECT_EQ(size.pairs, 55 + 6 * 10 + 21 + 2 * 18 * (16 + 18));
}

class Pack : public ::testing::Test {
 protected:
  Pack() {
    testing::make_texts_end(*model);
    rollout::RolloutConfig config = testing::tiny_rollout();
    list = testing::prompts({"a red circle", "a star"});
    all = rollout::RolloutEngine(*model, config, {.seed = 1}, "").rollout(testing::request(list, 3));
  }
  const std::unique_ptr<policy::Bagel> model = testing::tiny_bagel();
  std::vector<data::Prompt> list;
  std::vector<Trajectory> all;
  const std::vector<int64_t> rows = {0, 1, 4};
};

TEST_F(Pack, ActionsStandBehindTheRowsThatPredictThem) {
  const PackedBatch packed = pack(*model, all, rows, false, false);
  EXPECT_EQ(packed.batch.prefixes.size(), 2U);
  EXPECT_EQ(packed.batch.sequences.size(), 3U);
  int64_t hidden = 0, action = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const TextSegment& text = all[rows[r]].texts[0];
    const auto& ids = std::get<policy::TextBlock>(packed.batch.sequences[r].blocks[0]).ids;
    EXPECT_EQ(ids.front(), model->bos_id());
    EXPECT_EQ(ids.back(), model->eos_id());
    EXPECT_EQ(ids.size(), text.ids.size() + (text.finished ? 1 : 2));
    for (size_t k = 0; k < text.ids.size(); ++k, ++action) {
      EXPECT_EQ(packed.texts.hidden_rows[action].item<int64_t>(), hidden + static_cast<int64_t>(k));
      EXPECT_EQ(packed.texts.ids[action].item<int64_t>(), text.ids[k]);
      EXPECT_EQ(packed.texts.ids[action].item<int64_t>(), ids[k + 1]);
    }
    hidden += static_cast<int64_t>(ids.size());
    const Placed<TextSegment>& placed = packed.texts.segments[r];
    EXPECT_EQ(placed.segment, &text);
    EXPECT_EQ(placed.row, rows[r]);
    EXPECT_EQ(placed.segment_index, 0);
    EXPECT_EQ(placed.turn, 0);
    EXPECT_EQ(placed.sequence, static_cast<int64_t>(r));
    EXPECT_EQ(placed.block, 0);
  }
  EXPECT_EQ(action, packed.texts.ids.size(0));
}

TEST_F(Pack, EachTrainedStepHasItsStatesAndTimes) {
  const PackedBatch packed = pack(*model, all, rows, false, false);
  ASSERT_EQ(packed.flows.streams[0].x.sizes(), (at::IntArrayRef{6, 16, 64}));
  for (size_t r = 0; r < rows.size(); ++r) {
    const FlowSegment& image = all[rows[r]].flows[0];
    for (int64_t s = 0; s < 2; ++s) {
      const int64_t at_row = static_cast<int64_t>(r) * 2 + s;
      EXPECT_TRUE(close(packed.flows.streams[0].x[at_row], image.stream().latents[s], 0));
      EXPECT_TRUE(close(packed.flows.streams[0].x_next[at_row], image.stream().latents[s + 1], 0));
      EXPECT_EQ(packed.flows.times.t[at_row].item<double>(), image.timesteps[image.window.first + s]);
      EXPECT_EQ(packed.flows.times.t_next[at_row].item<double>(), image.timesteps[image.window.first + s + 1]);
    }
    EXPECT_EQ(packed.flows.times.t_max, image.timesteps[1]);
    EXPECT_EQ(packed.flows.segments[r].segment, &image);
    EXPECT_EQ(packed.flows.segments[r].segment_index, 1);
    EXPECT_EQ(packed.flows.segments[r].turn, 0);
    EXPECT_EQ(packed.flows.segments[r].block, 1);
  }
}

TEST_F(Pack, TheUnconditionalStatesFollowUnderThePrefixWithoutThePrompt) {
  const PackedBatch packed = pack(*model, all, rows, false, true);
  ASSERT_EQ(packed.batch.sequences.size(), 6U);
  for (size_t r = 3; r < 6; ++r) {
    EXPECT_TRUE(
        packed.batch.prefixes[packed.batch.sequences[r].prefix].empty());  // these prompts are all that is read before
    const auto& states = std::get<policy::NoisyBlock>(packed.batch.sequences[r].blocks.at(0));
    const auto& same = std::get<policy::NoisyBlock>(packed.batch.sequences[r - 3].blocks.at(1));
    EXPECT_TRUE(close(states.latents, same.latents, 0));
  }
  EXPECT_EQ(packed.flows.streams[0].x.size(0), 6);
}

}  // namespace
}  // namespace unigrpo::grpo
