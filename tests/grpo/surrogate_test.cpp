#include "grpo/surrogate.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "grpo/aggregation.h"
#include "support/tensors.h"

namespace unigrpo::grpo {
namespace {

using unigrpo::testing::close;

/// Two rows of log-ratios, the second one action long; advantages 1 and -1.
Actions two_rows(const at::Tensor& log_ratio) {
  return masked_actions({.log_probs = log_ratio,
                         .old_log_probs = at::zeros_like(log_ratio),
                         .mask = at::tensor({1, 1, 1, 0}, at::kLong).view({2, 2}).to(at::kBool),
                         .advantages = at::tensor({1.0, -1.0}, at::kDouble)},
                        "T");
}

at::Tensor logs(std::initializer_list<double> ratios) {
  return at::tensor(std::vector<double>(ratios), at::kDouble).log().view({2, 2});
}

TEST(Surrogate, ARatioIsClippedWhereThatIsTheLargerLoss) {
  const Actions actions = two_rows(logs({1.5, 0.5, 1.5, 1.0}));
  const Surrogate tokens = token_ratio({.clip_low = 0.2, .clip_high = 0.28}, actions);
  const at::Tensor want = at::tensor({-1.28, -0.5, 1.5, 1.0}, at::kDouble).view({2, 2});
  EXPECT_TRUE(close(tokens.loss, want, 1e-12));
  EXPECT_TRUE(at::equal(tokens.clipped, at::tensor({1, 0, 0, 0}, at::kLong).view({2, 2}).to(at::kBool)));
}

TEST(Surrogate, AnInfiniteLogProbIsNotTakenForABoundedOne) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const double bad : {kInf, -kInf, std::nan("")}) {
    at::Tensor log_ratio = logs({1.5, 0.5, 1.5, 1.0});
    log_ratio[0][1] = bad;
    const at::Tensor loss = token_ratio({.clip_low = 0.2, .clip_high = 0.28}, two_rows(log_ratio)).loss;
    EXPECT_TRUE(std::isnan(loss[0][1].item<double>())) << bad;
    EXPECT_EQ(loss[0][0].item<double>(), -1.28);
    log_ratio[0][1] = 0;
    log_ratio[1][1] = bad;  // padding
    EXPECT_TRUE(
        token_ratio({.clip_low = 0.2, .clip_high = 0.28}, two_rows(log_ratio)).loss.isfinite().all().item<bool>());
  }
}

TEST(Surrogate, WithoutAnAdvantageTheClipHoldsNothingBack) {
  Actions actions = two_rows(logs({1.5, 0.5, 1.5, 1.0}));
  actions.advantages = at::zeros({2, 1}, at::kDouble);
  for (const Importance importance : {Importance::token, Importance::sequence, Importance::cispo}) {
    const Surrogate surrogate = surrogate_of(importance)({.clip_low = 0.2, .clip_high = 0.28}, actions);
    EXPECT_FALSE(surrogate.clipped.any().item<bool>()) << enum_name(importance);
  }
}

TEST(Surrogate, ADualClipBoundsTheLossOfBadActions) {
  const Actions actions = two_rows(logs({1.0, 1.0, 20.0, 1.0}));
  const auto loss_of_the_bad = [&](double dual_clip) {
    const SurrogateSettings settings{.clip_low = 0.2, .clip_high = 0.2, .dual_clip = dual_clip};
    return token_ratio(settings, actions).loss[1][0].item<double>();
  };
  EXPECT_NEAR(loss_of_the_bad(3), 3, 1e-12);
  EXPECT_NEAR(loss_of_the_bad(0), 20, 1e-9);
}

TEST(Surrogate, ASequenceHasOneRatioOverItsOwnActions) {
  const Surrogate rows = sequence_ratio({.clip_low = 0.9, .clip_high = 9}, two_rows(logs({4.0, 1.0, 3.0, 7.0})));
  EXPECT_TRUE(close(rows.ratio, at::tensor({2.0, 2.0, 3.0, 3.0}, at::kDouble).view({2, 2}), 1e-12));
}

TEST(Surrogate, EveryImportanceHasARow) {
  EXPECT_EQ(surrogate_of(Importance::token), token_ratio);
  EXPECT_EQ(surrogate_of(Importance::sequence), sequence_ratio);
  EXPECT_EQ(surrogate_of(Importance::cispo), cispo);
}

TEST(Surrogate, ShapesAreChecked) {
  EXPECT_EQ(testing::message_of<std::invalid_argument>([] {
              masked_actions({.log_probs = at::zeros({2, 3}),
                              .old_log_probs = at::zeros({2, 2}),
                              .mask = at::ones({2, 2}, at::kBool),
                              .advantages = at::zeros({2})},
                             "S");
            }),
            "log_probs [B, S] has shape [2, 3], expected [2, 2]");
}

TEST(Aggregation, DividesByTokensRowsOrLengths) {
  const Actions actions = two_rows(logs({1.0, 1.0, 1.0, 1.0}));
  const at::Tensor losses = at::tensor({1.0, 3.0, 5.0, 100.0}, at::kDouble).view({2, 2});  // the last is padding
  const ActionCounts counts = count_actions(actions.padding.logical_not());
  EXPECT_EQ(counts.num_actions, 3);
  EXPECT_EQ(counts.num_rows, 2);
  EXPECT_EQ(aggregate(Aggregation::token_mean, losses, actions, counts).item<double>(), 3);
  EXPECT_EQ(aggregate(Aggregation::seq_mean, losses, actions, counts).item<double>(), 3.5);
  EXPECT_EQ(aggregate(Aggregation::fixed_length, losses, actions, counts, 9).item<double>(), 0.5);
  EXPECT_EQ(action_mean(losses, actions, counts).item<double>(), 3);
  EXPECT_EQ(aggregated_size(Aggregation::token_mean, counts), 3);
  EXPECT_EQ(aggregated_size(Aggregation::seq_mean, counts), 2);
  EXPECT_EQ(aggregated_size(Aggregation::fixed_length, counts), 2);
}

TEST(Aggregation, WeightsCountOnlyWhereActionsAre) {
  const at::Tensor mask = at::tensor({1, 0}, at::kLong).view({1, 2}).to(at::kBool);
  const ActionCounts counts = count_actions(mask, at::tensor({2.5, 7.0}).view({1, 2}));
  EXPECT_EQ(counts.sum_of_weights, 2.5);
  EXPECT_EQ(counts.num_actions, 1);
}

}  // namespace
}  // namespace unigrpo::grpo
