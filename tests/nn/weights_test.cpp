#include "nn/weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace unigrpo::nn {
namespace {

TEST(Weights, LeftOverIsWhatNobodyAskedFor) {
  Weights weights("file", std::map<std::string, at::Tensor>{
                              {"a", at::zeros({1})}, {"b", at::zeros({2})}, {"c", at::zeros({3})}});
  weights.take("b", {2});
  EXPECT_EQ(weights.left_over(), (std::vector<std::string>{"a", "c"}));
  EXPECT_TRUE(weights.has("a"));
  EXPECT_FALSE(weights.has("d"));
}

TEST(Weights, WhatIsTakenSharesMemoryWithWhatWasLoaded) {
  const at::Tensor a = at::zeros({2});
  Weights weights("file", std::map<std::string, at::Tensor>{{"a", a}});
  weights.take("a", {2}).fill_(7);
  EXPECT_EQ(a[0].item<int64_t>(), 7);
}

TEST(Weights, AnInitializerMakesEachTensorOnce) {
  int made = 0;
  Weights weights("config.json", [&](const std::string&, const std::vector<int64_t>& shape) {
    ++made;
    return at::ones(shape);
  });
  weights.take("a", {2, 3});
  weights.take("a", {2, 3});
  EXPECT_EQ(made, 1);
  EXPECT_EQ(weights.tensors().at("a").numel(), 6);
  EXPECT_TRUE(weights.left_over().empty());
}

}  // namespace
}  // namespace unigrpo::nn
