#include "flow/ode_step.h"

#include <stdexcept>

#include "support/tensors.h"

namespace unigrpo::flow {
namespace {

using unigrpo::testing::close;

TEST(OdeStep, FollowsAStraightFlowToItsEnd) {
  const at::Tensor data = at::ones({2, 3, 4});
  const at::Tensor noise = at::full({2, 3, 4}, -3.0);
  at::Tensor x = noise;
  for (const auto& [t, t_next] : {std::pair{1.0, 0.6}, {0.6, 0.1}, {0.1, 0.0}}) {
    x = ode_step(x, noise - data, t, t_next);
  }
  EXPECT_TRUE(close(x, data, 1e-6));
}

TEST(OdeStep, StaysInFloat32UnderBf16Velocities) {
  const at::Tensor x = at::ones({1, 1, 1});
  EXPECT_EQ(ode_step(x, x.to(at::kBFloat16), 1.0, 0.5).scalar_type(), at::kFloat);
}

TEST(OdeStep, RefusesToGoBack) {
  const at::Tensor x = at::ones({1, 1, 1});
  EXPECT_THROW(ode_step(x, x, 0.5, 0.5), std::invalid_argument);
  EXPECT_THROW(ode_step(x, x, 0.5, -0.1), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::flow
