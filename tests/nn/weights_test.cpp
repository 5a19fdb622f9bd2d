#include "nn/weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "support/tensors.h"

namespace unigrpo::nn {
namespace {

using testing::message_of;

TEST(Weights, MissingAndLeftOverNamesComeTogether) {
  Weights weights(
      "file", std::map<std::string, at::Tensor>{{"a", at::zeros({1})}, {"b", at::zeros({2})}, {"c", at::zeros({3})}});
  weights.take("b", {2});
  EXPECT_EQ(message_of<BadInput>([&] { weights.finish(); }),
            "file: 2 tensor(s) that the config does not ask for: a, c");
  EXPECT_EQ(weights.take("q", {4, 5}).sizes(), (at::IntArrayRef{4, 5}));
  weights.take("p", {1});
  weights.take("a", {1});
  EXPECT_EQ(message_of<BadInput>([&] { weights.finish(); }),
            "file: 2 tensor(s) missing: p, q; 1 tensor(s) that the config does not ask for: c");
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
  EXPECT_NO_THROW(weights.finish());
}

}  // namespace
}  // namespace unigrpo::nn
