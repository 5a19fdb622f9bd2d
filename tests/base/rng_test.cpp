#include "base/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>

namespace unigrpo {
namespace {

TEST(RandomStream, IsAFunctionOfItsKey) {
  RandomStream a({.seed = 1, .step = 2, .prompt = 3, .sample = 4, .segment = 5});
  RandomStream b({.seed = 1, .step = 2, .prompt = 3, .sample = 4, .segment = 5});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.next_u64(), b.next_u64());
}

// Numbers are a contract: a resumed run must draw what the interrupted one would have drawn.
TEST(RandomStream, EveryPartOfTheKeyMatters) {
  const std::array<StreamKey, 8> keys = {StreamKey{},
                                         StreamKey{.seed = 1},
                                         StreamKey{.step = 1},
                                         StreamKey{.prompt = 1},
                                         StreamKey{.sample = 1},
                                         StreamKey{.segment = 1},
                                         StreamKey{.purpose = Purpose::sde_noise},
                                         StreamKey{.seed = 1, .step = 1}};
  std::set<uint64_t> first;
  for (const StreamKey& key : keys) first.insert(RandomStream(key).next_u64());
  EXPECT_EQ(first.size(), keys.size());
}

TEST(RandomStream, DrawsHaveTheRightMoments) {
  RandomStream random({.seed = 7});
  constexpr int kDraws = 200'000;
  double uniform = 0;
  double normal = 0;
  double square = 0;
  std::array<int, 3> counts{};
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    uniform += u;
    const double z = random.normal();
    normal += z;
    square += z * z;
    ++counts[random.below(3)];
  }
  // Five standard errors: 5 / sqrt(200000) = 0.011 times the deviation of one draw.
  EXPECT_NEAR(uniform / kDraws, 0.5, 0.011 * 0.289);
  EXPECT_NEAR(normal / kDraws, 0.0, 0.011);
  EXPECT_NEAR(square / kDraws, 1.0, 0.011 * std::sqrt(2.0));
  for (const int count : counts) EXPECT_NEAR(count / double{kDraws}, 1.0 / 3, 0.011 * 0.471);
}

}  // namespace
}  // namespace unigrpo
