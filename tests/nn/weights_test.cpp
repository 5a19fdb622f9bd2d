#include "nn/weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "tensor/convert.h"

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

TEST(Weights, OpensWhatIsWantedOfAFile) {
  const testing::TempFolder folder;
  const auto path = folder.path() / "model.safetensors";
  const at::Tensor a = at::arange(4, at::kFloat), b = at::ones({2});
  io::write_safetensors(path, std::vector{tensor::to_view(a, "a"), tensor::to_view(b, "b")});
  Weights weights = open_weights(path, at::kBFloat16, [](const std::string& name) { return name != "b"; });
  EXPECT_EQ(weights.source(), path.string());
  EXPECT_FALSE(weights.has("b"));
  EXPECT_TRUE(at::equal(weights.take("a", {4}), a.to(at::kBFloat16)));
  EXPECT_NO_THROW(weights.finish());
}

TEST(Weights, ShapesTakenHaveNoMemory) {
  const NamedTensors shapes = shapes_taken([](Weights& weights) {
    weights.take("b", {2, 3});
    weights.take("a", {1 << 30, 1 << 20});
  });
  ASSERT_EQ(shapes.size(), 2);
  EXPECT_EQ(shapes[0].name, "a");
  EXPECT_TRUE(shapes[0].tensor.is_meta());
  EXPECT_EQ(shapes[1].tensor.sizes(), (at::IntArrayRef{2, 3}));
}

}  // namespace
}  // namespace unigrpo::nn
