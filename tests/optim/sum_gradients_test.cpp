#include "optim/sum_gradients.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "optim/grad_clip.h"
#include "support/rank_threads.h"

namespace unigrpo::optim {
namespace {

const std::vector<std::string> kNoErrors3(3);

at::Tensor parameter(at::IntArrayRef sizes) { return at::zeros(sizes, at::kFloat).requires_grad_(true); }

TEST(SumGradients, TheSumIsTakenInTheOrderOfRanksAndIsTheSameOnAll) {
  std::vector<at::Tensor> parts;
  for (int64_t rank = 0; rank < 3; ++rank) {
    parts.push_back(at::arange(12, at::kFloat).mul(0.1F + 0.37F * static_cast<float>(rank)).sin().view({3, 4}));
  }
  const at::Tensor sum = parts[0] + parts[1] + parts[2];
  EXPECT_EQ(test::run_runtimes(
                3,
                [&](const Runtime& runtime) {
                  const NamedParameters all = {{"large", parameter({3, 4})}, {"column", parameter({4, 3})}};
                  all[0].tensor.mutable_grad() = parts[static_cast<size_t>(runtime.mesh.rank)].clone();
                  all[1].tensor.mutable_grad() = parts[static_cast<size_t>(runtime.mesh.rank)].t();  // not contiguous
                  sum_gradients(runtime, all);
                  EXPECT_TRUE(at::equal(all[0].tensor.grad(), sum));
                  EXPECT_TRUE(at::equal(all[1].tensor.grad(), sum.t()));
                }),
            kNoErrors3);
}

TEST(SumGradients, AGradientOfOneRankIsEveryRanksAndOneOfNobodyStaysAway) {
  EXPECT_EQ(test::run_runtimes(3,
                               [&](const Runtime& runtime) {
                                 NamedParameters named = {{"of_one", parameter({2})},
                                                          {"of_none", parameter({2})},
                                                          {"bf16", at::zeros({5}, at::kBFloat16).requires_grad_(true)}};
                                 named[2].tensor.set_grad_dtype(at::kFloat);
                                 named[2].tensor.mutable_grad() = at::full({5}, 1e-3F);
                                 if (runtime.mesh.rank == 1) named[0].tensor.mutable_grad() = at::full({2}, 3.0F);
                                 sum_gradients(runtime, named);
                                 EXPECT_TRUE(at::equal(named[0].tensor.grad(), at::full({2}, 3.0F)));
                                 EXPECT_FALSE(named[1].tensor.grad().defined());
                                 EXPECT_EQ(named[2].tensor.grad().scalar_type(), at::kFloat);
                                 EXPECT_TRUE(at::equal(named[2].tensor.grad(), at::full({5}, 1e-3F) + 1e-3F + 1e-3F));
                               }),
            kNoErrors3);
}

TEST(SumGradients, LargeParametersGoInCallsOfTheirOwn) {
  constexpr int64_t kLarge = (int64_t{1} << 22) + 7;
  EXPECT_EQ(test::run_runtimes(3,
                               [&](const Runtime& runtime) {
                                 NamedParameters all = {
                                     {"a", parameter({3})}, {"b", parameter({kLarge})}, {"c", parameter({5})}};
                                 for (NamedParameter& one : all)
                                   one.tensor.mutable_grad() = at::ones_like(one.tensor.detach());
                                 sum_gradients(runtime, all);
                                 for (NamedParameter& one : all)
                                   EXPECT_TRUE(one.tensor.grad().eq(3).all().item<bool>()) << one.name;
                               }),
            kNoErrors3);
}

TEST(SumGradients, OneProcessTouchesNothing) {
  const NamedParameters all = {{"a", parameter({2})}};
  const at::Tensor grad = at::ones({2});
  all[0].tensor.mutable_grad() = grad;
  sum_gradients({}, all);
  EXPECT_TRUE(all[0].tensor.grad().is_same(grad));
}

TEST(GradClip, WhatOneRankSeesMakesAllSkip) {
  EXPECT_EQ(test::run_runtimes(3,
                               [&](const Runtime& runtime) {
                                 const NamedParameters all = {{"a", parameter({2})}, {"b", parameter({2})}};
                                 for (const NamedParameter& one : all) one.tensor.mutable_grad() = at::ones({2});
                                 if (runtime.mesh.rank == 2)
                                   all[1].tensor.mutable_grad()[0] = std::numeric_limits<float>::infinity();
                                 GradClip clip{OptimConfig{}};
                                 const GradNorm norm = clip.check(all, runtime);
                                 EXPECT_TRUE(norm.skip);
                                 EXPECT_FALSE(std::isfinite(norm.norm));
                                 EXPECT_EQ(norm.nonfinite, "b");
                                 EXPECT_EQ(clip.skipped(), 1);
                               }),
            kNoErrors3);
}

}  // namespace
}  // namespace unigrpo::optim
