#include "kernels/gather_log_prob.h"

#include <limits>

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;
using unigrpo::testing::gradient_is_right;
using unigrpo::testing::message_of;

struct Inputs {
  at::Tensor logits, ids;
};

Inputs inputs(int64_t rows, int64_t vocabulary, at::ScalarType type, double spread = 3) {
  at::manual_seed(5);
  return {(at::randn({rows, vocabulary}, at::kDouble) * spread).to(type),
          at::randint(0, vocabulary, {rows}, at::kLong)};
}

TEST(GatherLogProb, IsTheReferenceOverOddSizes) {
  for (const int64_t vocabulary : {1, 2, 15, 16, 33, 511, 512, 1100, 5003}) {
    for (const double temperature : {1.0, 0.7, 2.5}) {
      const Inputs in = inputs(5, vocabulary, at::kFloat);
      const auto got = gather_log_prob(in.logits, in.ids, temperature);
      const auto want = gather_log_prob_reference(in.logits.to(at::kDouble), in.ids, temperature);
      EXPECT_TRUE(close(got.log_probs, want.log_probs, 2e-6, 1e-6)) << vocabulary;  // float32 sums
      EXPECT_TRUE(close(got.entropy, want.entropy, 5e-6, 2e-6)) << vocabulary;
    }
  }
}

TEST(GatherLogProb, ReadsLowerPrecisionWithoutLosingMore) {
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    const Inputs in = inputs(4, 1000, type);
    const auto got = gather_log_prob(in.logits, in.ids, 0.9);
    const auto want = gather_log_prob_reference(in.logits.to(at::kDouble), in.ids, 0.9);  // of the rounded logits
    EXPECT_EQ(got.log_probs.scalar_type(), at::kFloat);
    EXPECT_TRUE(close(got.log_probs, want.log_probs, 2e-6, 1e-6));
    EXPECT_TRUE(close(got.entropy, want.entropy, 5e-6, 2e-6));
  }
}

TEST(GatherLogProb, KeepsItsDigitsForExtremeLogits) {
  const at::Tensor logits = at::tensor({1000.0, 990.0, -1e30, 0.0}, at::kFloat).view({1, 4});
  const auto got = gather_log_prob(logits, at::tensor({1}, at::kLong), 1.0);
  EXPECT_NEAR(got.log_probs.item<double>(), -10.0000454, 1e-5);
  EXPECT_TRUE(got.entropy.isfinite().all().item<bool>());
}

TEST(GatherLogProb, AForbiddenTokenHasProbabilityZero) {
  const double inf = std::numeric_limits<double>::infinity();
  const at::Tensor logits = at::tensor({0.0, -inf, 1.0, 0.0, -inf, 1.0}, at::kFloat).view({2, 3});
  const auto got = gather_log_prob(logits, at::tensor({1, 0}, at::kLong), 1.0);
  EXPECT_EQ(got.log_probs[0].item<double>(), -inf);
  EXPECT_NEAR(got.log_probs[1].item<double>(), -1.3132617, 1e-6);
  EXPECT_NEAR(got.entropy[0].item<double>(), 0.5822031, 1e-6);
}

TEST(GatherLogProb, ANanStaysInItsRow) {
  Inputs in = inputs(3, 40, at::kFloat);
  in.logits.index_put_({at::tensor({1}), at::tensor({39})},
                       at::scalar_tensor(std::numeric_limits<double>::quiet_NaN()));
  const auto got = gather_log_prob(in.logits, in.ids, 1.0);
  EXPECT_TRUE(got.log_probs.isnan().to(at::kInt).equal(at::tensor({0, 1, 0}, at::kInt)));
  EXPECT_TRUE(got.entropy.isnan().to(at::kInt).equal(at::tensor({0, 1, 0}, at::kInt)));
}

TEST(GatherLogProb, RowsOfAViewNeedNoCopy) {
  const Inputs in = inputs(4, 20, at::kFloat);
  const at::Tensor wide = at::randn({4, 31}, at::kFloat);
  wide.narrow(1, 3, 20).copy_(in.logits);
  const auto want = gather_log_prob(in.logits, in.ids, 1.0);
  EXPECT_TRUE(at::equal(gather_log_prob(wide.narrow(1, 3, 20), in.ids, 1.0).log_probs, want.log_probs));
  const at::Tensor transposed = in.logits.t().contiguous().t();
  EXPECT_TRUE(at::equal(gather_log_prob(transposed, in.ids, 1.0).entropy, want.entropy));
}

TEST(GatherLogProb, ARowDoesNotDependOnTheBatch) {
  const Inputs in = inputs(9, 3000, at::kFloat);
  const auto all = gather_log_prob(in.logits, in.ids, 1.0);
  const auto one = gather_log_prob(in.logits.narrow(0, 7, 1), in.ids.narrow(0, 7, 1), 1.0);
  EXPECT_TRUE(at::equal(one.log_probs, all.log_probs.narrow(0, 7, 1)));
}

TEST(GatherLogProb, GradientsOfBothResultsAreRight) {
  const Inputs in = inputs(3, 7, at::kDouble, 1.0);
  EXPECT_TRUE(
      gradient_is_right([&](const at::Tensor& x) { return gather_log_prob(x, in.ids, 0.7).log_probs; }, in.logits));
  EXPECT_TRUE(
      gradient_is_right([&](const at::Tensor& x) { return gather_log_prob(x, in.ids, 0.7).entropy; }, in.logits));
  EXPECT_TRUE(gradient_is_right(
      [&](const at::Tensor& x) {
        const auto out = gather_log_prob(x, in.ids, 1.3);
        return out.log_probs - 0.1 * out.entropy;
      },
      in.logits));
}

TEST(GatherLogProb, TheReferenceKnowsForbiddenTokensAndHasTheSameGradients) {
  Inputs in = inputs(3, 40, at::kDouble);
  in.logits.narrow(1, 5, 2).fill_(-std::numeric_limits<double>::infinity());
  in.ids.fill_(7);
  auto results = [&](auto op) {
    const at::Tensor leaf = in.logits.clone().requires_grad_();
    const TokenLogProbs out = op(leaf, in.ids, 0.8);
    const auto grad = torch::autograd::grad({(out.log_probs + 0.3 * out.entropy).sum()}, {leaf}).at(0);
    return std::vector<at::Tensor>{out.log_probs, out.entropy, grad};
  };
  const auto got = results(gather_log_prob), want = results(gather_log_prob_reference);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(close(got[i], want[i], 1e-12)) << i;
}

TEST(GatherLogProb, Float32GradientsFollowTheSoftmax) {
  const Inputs in = inputs(4, 1500, at::kFloat);
  const at::Tensor leaf = in.logits.clone().requires_grad_();
  const at::Tensor grad = torch::autograd::grad({gather_log_prob(leaf, in.ids, 1.0).log_probs.sum()}, {leaf}).at(0);
  at::Tensor want = -in.logits.to(at::kDouble).softmax(-1);
  want.scatter_add_(1, in.ids.unsqueeze(1), at::ones({4, 1}, at::kDouble));
  EXPECT_TRUE(close(grad, want, 1e-6, 2e-6));
}

TEST(GatherLogProb, EmptyBatchesAreFine) {
  const auto out = gather_log_prob(at::zeros({0, 5}), at::zeros({0}, at::kLong), 1.0);
  EXPECT_EQ(out.log_probs.numel(), 0);
}

TEST(GatherLogProb, RefusesIdsAndTemperaturesOutOfRange) {
  const at::Tensor logits = at::zeros({2, 5});
  const auto text = message_of<c10::Error>([&] { gather_log_prob(logits, at::tensor({0, 5}, at::kLong), 1.0); });
  EXPECT_NE(text.find("token id 5 of row 1 is not in 0..4"), std::string::npos) << text;
  EXPECT_THROW(gather_log_prob(logits, at::tensor({0, -1}, at::kLong), 1.0), c10::Error);
  EXPECT_THROW(gather_log_prob(logits, at::tensor({0, 1}, at::kLong), 0.0), c10::Error);
  EXPECT_THROW(gather_log_prob(logits, at::tensor({0}, at::kLong), 1.0), c10::Error);
}

}  // namespace
}  // namespace unigrpo::kernels
