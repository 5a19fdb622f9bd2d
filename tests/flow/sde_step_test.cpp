#include "flow/sde_step.h"

#include <cmath>
#include <stdexcept>

#include "flow/ode_step.h"
#include "flow/time_grid.h"
#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::flow {
namespace {

using unigrpo::testing::close;
using unigrpo::testing::gradient_is_right;
using unigrpo::testing::message_of;

const SdeConfig kKinds[] = {{SdeKind::flow_sde, 0.7}, {SdeKind::cps, 0.8}, {SdeKind::dance, 0.3}};

at::Tensor draw(uint64_t seed, at::IntArrayRef shape = {4, 6, 5}) { return tensor::normal(shape, {.seed = seed}); }

TEST(SdeStep, MatchesTheMarginalsOfTheFlow) {
  // Data concentrated at mu: x_t ~ N((1 - t) mu, t^2), with velocity v = (x - mu) / t. flow_sde and
  // cps must keep mean and standard deviation of that family, whatever the noise level.
  const double mu = 2;
  const int64_t num_samples = 20000;
  const auto grid = time_grid(60, 1.0);
  for (const SdeConfig& config : {SdeConfig{SdeKind::flow_sde, 0.7}, {SdeKind::cps, 0.8}}) {
    at::Tensor x = draw(1, {1, num_samples, 1});
    for (size_t i = 0; i + 10 < grid.size(); ++i) {
      const at::Tensor velocity = (x - mu) / grid[i];
      x = sde_step(config, x, velocity, draw(100 + i, {1, num_samples, 1}),
                   TimeSpan{.t = grid[i], .t_next = grid[i + 1], .t_max = grid[1]})
              .x_next;
    }
    const double t = grid[grid.size() - 10];
    // Sampling error 0.001; the Euler steps of flow_sde add a bias of the order of one step.
    EXPECT_NEAR(x.mean().item<double>(), (1 - t) * mu, 0.01) << enum_name(config.kind);
    EXPECT_NEAR(x.std().item<double>(), t, 0.02) << enum_name(config.kind);
  }
}

TEST(SdeStep, WithVanishingNoiseIsTheOdeStep) {
  const at::Tensor x = draw(1);
  const at::Tensor v = draw(2);
  for (const SdeKind kind : {SdeKind::flow_sde, SdeKind::cps, SdeKind::dance}) {
    const auto mean = sde_mean({kind, 1e-6}, x, v, TimeSpan{.t = 0.8, .t_next = 0.7, .t_max = 0.9});
    EXPECT_TRUE(close(mean.mean, ode_step(x, v, 0.8, 0.7), 1e-6)) << enum_name(kind);
  }
}

TEST(SdeStep, TimesOfTheirOwnGiveWhatEachTimeGivesAlone) {
  const auto grid = time_grid(10, 3.0);
  const at::Tensor x = draw(1);
  const at::Tensor v = draw(2);
  const at::Tensor noise = draw(3);
  const TimeSpans spans{at::tensor({grid[0], grid[1], grid[5], grid[8]}, at::kDouble),
                        at::tensor({grid[1], grid[2], grid[6], grid[9]}, at::kDouble), grid[1]};
  const int64_t steps[] = {0, 1, 5, 8};
  for (const SdeConfig& config : kKinds) {
    const SdeStep all = sde_step(config, x, v, noise, spans);
    const at::Tensor log_probs = sde_log_prob(config, x, v, all.x_next, spans);
    for (int64_t row = 0; row < 4; ++row) {
      const auto one = [&](const at::Tensor& tensor) { return tensor.narrow(0, row, 1); };
      const TimeSpan span{grid[steps[row]], grid[steps[row] + 1], grid[1]};
      const SdeStep alone = sde_step(config, one(x), one(v), one(noise), span);
      EXPECT_TRUE(at::equal(alone.x_next, one(all.x_next)));
      EXPECT_TRUE(at::equal(alone.log_prob, one(all.log_prob)));
      EXPECT_TRUE(at::equal(alone.std, one(all.std)));
      EXPECT_TRUE(at::equal(one(log_probs), one(all.log_prob)));  // ratio 1, to the last bit
    }
  }
}

TEST(SdeStep, TheDifferentiablePathAgreesWithTheKernel) {
  const TimeSpan span{.t = 0.6, .t_next = 0.5, .t_max = 0.9};
  for (const SdeConfig& config : kKinds) {
    const at::Tensor v = draw(2).requires_grad_();
    const SdeStep with = sde_step(config, draw(1), v, draw(3), span);
    const SdeStep without = sde_step(config, draw(1), v.detach(), draw(3), span);
    EXPECT_TRUE(with.x_next.requires_grad());
    EXPECT_TRUE(close(with.x_next, without.x_next, 1e-6));
    EXPECT_TRUE(close(with.log_prob, without.log_prob, 1e-5));
  }
}

TEST(SdeStep, LowerPrecisionIsPromoted) {
  const TimeSpan span{.t = 0.6, .t_next = 0.5, .t_max = 0.9};
  const at::Tensor v = draw(2).to(at::kBFloat16);
  const SdeStep step = sde_step(kKinds[0], draw(1), v, draw(3), span);
  EXPECT_EQ(step.x_next.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(step.x_next, sde_step(kKinds[0], draw(1), v.to(at::kFloat), draw(3), span).x_next));
}

TEST(SdeStep, GradientsAreRight) {
  const TimeSpans spans{at::tensor({1.0, 0.5}, at::kDouble), at::tensor({0.9, 0.3}, at::kDouble), 0.9};
  const auto d = [](uint64_t seed) { return draw(seed, {2, 3, 2}).to(at::kDouble); };
  for (const SdeConfig& config : kKinds) {
    EXPECT_TRUE(
        gradient_is_right([&](const at::Tensor& v) { return sde_log_prob(config, d(1), v, d(3), spans); }, d(2)));
    EXPECT_TRUE(
        gradient_is_right([&](const at::Tensor& v) { return log_ratio(config, d(1), v, d(4), d(3), spans); }, d(2)));
    if (config.kind == SdeKind::cps) continue;
    EXPECT_TRUE(gradient_is_right(
        [&](const at::Tensor& v) { return ratio_norm_log_ratio(config, d(1), v, d(4), d(3), spans); }, d(2)));
  }
}

TEST(LogRatio, IsTheDifferenceOfTheLogProbs) {
  const TimeSpan span{.t = 0.6, .t_next = 0.5, .t_max = 0.9};
  const auto d = [](uint64_t seed) { return draw(seed).to(at::kDouble); };
  for (const SdeConfig& config : kKinds) {
    const at::Tensor want = sde_log_prob(config, d(1), d(2), d(3), span) - sde_log_prob(config, d(1), d(4), d(3), span);
    EXPECT_TRUE(close(log_ratio(config, d(1), d(2), d(4), d(3), span), want, 1e-10, 1e-10));
    EXPECT_EQ(log_ratio(config, d(1), d(2), d(2), d(3), span).abs().max().item<double>(), 0);
  }
}

TEST(LogRatio, KeepsItsDigitsWhereTheLogProbsLoseThem) {
  const TimeSpan span{.t = 0.6, .t_next = 0.5, .t_max = 0.9};
  const at::Tensor x = draw(1);
  const at::Tensor v = draw(2);
  const at::Tensor x_next = sde_step(kKinds[0], x, v, draw(3), span).x_next;
  const at::Tensor moved = v + 1e-6 * draw(5);
  const auto exact = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
  const at::Tensor want = log_ratio(kKinds[0], exact(x), exact(moved), exact(v), exact(x_next), span);
  const at::Tensor got = log_ratio(kKinds[0], x, moved, v, x_next, span);
  EXPECT_TRUE(close(got, want, 1e-11, 1e-3));  // float32, from inputs that differ by an ulp or so
}

TEST(RatioNorm, DoesNotDriftBelowZero) {
  // With the noise that was drawn, E[n] = 0: the normed log ratio is centred, the plain one is not.
  const TimeSpan span{.t = 0.9, .t_next = 0.8, .t_max = 0.95};
  const std::vector<int64_t> shape = {400, 16, 8};
  const at::Tensor x = draw(1, shape);
  const at::Tensor v = draw(2, shape);
  const at::Tensor x_next = sde_step(kKinds[0], x, v, draw(3, shape), span).x_next;
  const at::Tensor moved = v + draw(4, shape);
  const double plain = log_ratio(kKinds[0], x, moved, v, x_next, span).mean().item<double>();
  const double normed = ratio_norm_log_ratio(kKinds[0], x, moved, v, x_next, span).mean().item<double>();
  const at::Tensor spread = ratio_norm_log_ratio(kKinds[0], x, moved, v, x_next, span).std() / 20.0;
  EXPECT_LT(std::abs(normed), 4 * spread.item<double>());  // 4 standard errors
  EXPECT_LT(plain, -0.01);
}

TEST(SdeStep, RefusesWhatItCannotDo) {
  const at::Tensor x = draw(1);
  const auto text = [&](const SdeConfig& config, const TimeSpan& span) {
    return message_of<std::invalid_argument>([&] { sde_step(config, x, x, x, span); });
  };
  EXPECT_EQ(text(kKinds[0], {.t = 0.5, .t_next = 0.6}), "a step needs 0 <= t_next < t <= 1, got t 0.5 and t_next 0.6");
  EXPECT_EQ(text(kKinds[0], {.t = 1, .t_next = 0.9, .t_max = 1}),
            "a flow_sde step from t = 1 needs t_max between 0 and 1, got 1");
  EXPECT_EQ(text({SdeKind::flow_sde, 0}, {.t = 0.6, .t_next = 0.5}), "noise_level 0 of flow_sde must be above 0");
  EXPECT_EQ(text({SdeKind::cps, 1.5}, {.t = 0.6, .t_next = 0.5}),
            "noise_level 1.5 of cps must be above 0 and at most 1");
  EXPECT_THROW(sde_step(kKinds[0], x, x.narrow(2, 0, 2), x, TimeSpan{0.6, 0.5, 0.9}), std::invalid_argument);
  EXPECT_THROW(ratio_norm_log_ratio(kKinds[1], x, x, x, x, TimeSpan{0.6, 0.5, 0.9}), std::invalid_argument);
}

TEST(SdeStep, TheLastStepOfCpsAddsNoNoise) {
  const SdeStep step = sde_step(kKinds[1], draw(1), draw(2), draw(3), TimeSpan{0.2, 0.0, 0.9});
  EXPECT_TRUE(at::equal(step.x_next, step.mean));
  EXPECT_EQ(step.std.abs().max().item<double>(), 0);
  EXPECT_EQ(step.log_prob.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace unigrpo::flow
