#include "optim/ema.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.h"

namespace unigrpo::optim {
namespace {

TEST(Ema, FollowsItsFormulaWithWarmUp) {
  const NamedParameters parameters = {{"w", at::zeros({3, 70000})}};
  Ema ema({.enabled = true, .decay = 0.5}, parameters);
  double expected = 0;
  for (int n = 0; n < 20; ++n) {
    const double value = 1.0 + n;
    at::Tensor tensor = parameters[0].tensor;
    tensor.fill_(value);
    ema.update(parameters);
    const double decay = std::min(0.5, (1.0 + n) / (10.0 + n));
    expected = decay * expected + (1 - decay) * value;
  }
  EXPECT_EQ(ema.num_updates(), 20);
  const at::Tensor average = ema.averages()[0].tensor;
  EXPECT_NEAR(average.min().item<double>(), expected, 1e-5);  // float32, 20 steps
  EXPECT_EQ(average.min().item<double>(), average.max().item<double>());
}

TEST(Ema, KeepsFloat32AveragesOfBf16AndDoesNotShareMemory) {
  const NamedParameters parameters = {{"w", at::ones({8}, at::kBFloat16)}, {"f", at::ones({8})}};
  Ema ema({}, parameters);
  at::Tensor f = parameters[1].tensor;
  f.zero_();
  EXPECT_EQ(ema.averages()[0].tensor.scalar_type(), at::kFloat);
  EXPECT_EQ(ema.averages()[1].tensor.sum().item<double>(), 8);
}

TEST(EmaScope, ShowsTheAveragesAndGivesTheParametersBack) {
  NamedParameters parameters = {{"w", at::rand({40, 3})}, {"b", at::rand({7}).to(at::kBFloat16)}};
  for (NamedParameter& parameter : parameters) parameter.tensor.set_requires_grad(true);
  const at::Tensor view = parameters[0].tensor.detach();  // shares memory, as layers do
  Ema ema({.enabled = true, .decay = 0.9}, parameters);
  NamedParameters moved;
  for (const NamedParameter& p : parameters) moved.push_back({p.name, p.tensor.detach() + 1});
  ema.update(moved);
  const at::Tensor own = view.clone();
  {
    const EmaScope scope(ema, parameters);
    EXPECT_TRUE(at::equal(view, ema.averages()[0].tensor));
    EXPECT_TRUE(at::equal(parameters[1].tensor.detach(), ema.averages()[1].tensor.to(at::kBFloat16)));
  }
  EXPECT_TRUE(at::equal(view, own));
}

TEST(Ema, OffHoldsNothing) {
  const Ema ema({.enabled = false}, {{"w", at::rand({5})}});
  EXPECT_TRUE(ema.averages().empty());
  EXPECT_TRUE(ema.state().tensors.empty());
}

TEST(Ema, ContinuesFromSavedAverages) {
  const NamedParameters parameters = {{"w", at::rand({5})}};
  Ema first({}, parameters);
  first.update({{"w", at::rand({5})}});
  Ema second({}, parameters);
  second.load_state(first.state(), "ema.safetensors");
  EXPECT_EQ(second.num_updates(), 1);
  const NamedParameters next = {{"w", at::rand({5})}};
  first.update(next);
  second.update(next);
  EXPECT_TRUE(at::equal(first.averages()[0].tensor, second.averages()[0].tensor));
  EXPECT_THROW(
      second.load_state({.tensors = {{"v", at::rand({5})}}, .values = {{"num_updates", "1"}}}, "ema.safetensors"),
      BadInput);
  EXPECT_THROW(second.update({{"v", at::rand({5})}}), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::optim
