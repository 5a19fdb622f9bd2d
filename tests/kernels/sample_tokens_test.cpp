#include "kernels/sample_tokens.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::message_of;

TEST(SampleTokens, AreThoseOfTheReference) {
  at::manual_seed(8);
  for (const int64_t vocabulary : {1, 3, 160, 5003}) {
    const at::Tensor logits = at::randn({64, vocabulary}) * 3, uniforms = at::rand({64}, at::kDouble);
    EXPECT_TRUE(at::equal(sample_tokens(logits, uniforms, 0.7), sample_tokens_reference(logits, uniforms, 0.7)))
        << vocabulary;
  }
}

/// The definition, element by element: what ids a seed gives must not depend on how fast they are found.
int64_t by_definition(const at::Tensor& row, double uniform, double temperature) {
  const auto* logits = row.const_data_ptr<float>();
  double top = -std::numeric_limits<double>::infinity(), total = 0, running = 0;
  for (int64_t i = 0; i < row.numel(); ++i) top = std::max(top, logits[i] / temperature);
  for (int64_t i = 0; i < row.numel(); ++i) total += std::exp(logits[i] / temperature - top);
  for (int64_t i = 0; i < row.numel(); ++i) {
    running += std::exp(logits[i] / temperature - top);
    if (running > uniform * total) return i;
  }
  return row.numel() - 1;
}

TEST(SampleTokens, AreThoseOfTheDefinitionToTheLastId) {
  at::manual_seed(9);
  for (const int64_t vocabulary : {511, 512, 513, 40000}) {
    for (const double scale : {0.01, 1.0, 5.0, 1e5}) {  // flat, as models are, peaked, and with rounded exponents
      const at::Tensor logits = at::randn({32, vocabulary}) * scale, uniforms = at::rand({32}, at::kDouble);
      for (const double temperature : {0.01, 1.0, 1.7}) {
        const at::Tensor ids = sample_tokens(logits, uniforms, temperature);
        for (int64_t row = 0; row < 32; ++row) {
          EXPECT_EQ(ids[row].item<int64_t>(), by_definition(logits[row], uniforms[row].item<double>(), temperature))
              << vocabulary << " " << scale << " " << temperature << " " << row;
        }
      }
    }
  }
}

TEST(SampleTokens, OnTheEdgeBetweenTwoTokensAreStillThoseOfTheDefinition) {
  const at::Tensor logits = at::zeros({64, 64});  // every edge is a number that uniforms can be
  const at::Tensor uniforms = at::arange(64).to(at::kDouble) / 64;
  EXPECT_TRUE(at::equal(sample_tokens(logits, uniforms, 1.0), at::arange(64)));
  EXPECT_TRUE(at::equal(sample_tokens(logits, uniforms - 1e-15 * uniforms, 1.0).narrow(0, 1, 63), at::arange(63)));
}

TEST(SampleTokens, FollowTheProbabilitiesInIdOrder) {
  const at::Tensor logits = at::tensor({0.5, 0.3, 0.2}).log().to(at::kFloat).expand({6, 3});
  const at::Tensor uniforms = at::tensor({0.0, 0.49, 0.51, 0.79, 0.81, 0.999}, at::kDouble);
  EXPECT_TRUE(at::equal(sample_tokens(logits, uniforms, 1.0), at::tensor({0, 0, 1, 1, 2, 2}, at::kLong)));
}

TEST(SampleTokens, NeverGiveATokenThatCannotOccur) {
  const float inf = std::numeric_limits<float>::infinity();
  const at::Tensor logits = at::tensor({-inf, 0.0F, -inf, 1.0F, -inf}).view({1, 5}).repeat({2, 1});
  const at::Tensor uniforms = at::tensor({0.0, 1.0}, at::kDouble);  // 1: above the last partial sum
  EXPECT_TRUE(at::equal(sample_tokens(logits, uniforms, 1.0), at::tensor({1, 3}, at::kLong)));
}

TEST(SampleTokens, ARowDoesNotDependOnTheBatchOrTheThreads) {
  const at::Tensor logits = at::randn({9, 3000}), uniforms = at::rand({9}, at::kDouble);
  const int threads = at::get_num_threads();
  at::set_num_threads(3);
  const at::Tensor all = sample_tokens(logits, uniforms, 1.3);
  at::set_num_threads(threads);
  for (int64_t row = 0; row < 9; ++row) {
    EXPECT_TRUE(
        at::equal(sample_tokens(logits.narrow(0, row, 1), uniforms.narrow(0, row, 1), 1.3), all.narrow(0, row, 1)));
  }
  EXPECT_EQ(sample_tokens(at::zeros({0, 5}), at::zeros({0}, at::kDouble), 1.0).numel(), 0);
}

TEST(SampleTokens, RefuseOtherShapesAndTypes) {
  const at::Tensor uniforms = at::zeros({1}, at::kDouble);
  EXPECT_NE(message_of<c10::Error>([&] { sample_tokens(at::zeros({2, 3}), uniforms, 1.0); }).find("with N = 2"),
            std::string::npos);
  EXPECT_THROW(sample_tokens(at::zeros({1, 3}, at::kDouble), uniforms, 1.0), c10::Error);
  EXPECT_THROW(sample_tokens(at::zeros({1, 3}), uniforms, 0.0), c10::Error);
}

}  // namespace
}  // namespace unigrpo::kernels
