#include "kernels/keyed_random.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/rng.h"

namespace unigrpo::kernels {
namespace {

// base/rng.h is the second implementation: a stream that goes from number to number.
TEST(KeyedRandom, NormalsAreThoseOfTheStream) {
  for (const int64_t count : {0, 1, 2, 3, 4096, 100001}) {
    RandomStream stream({.seed = 7, .sample = 3, .purpose = Purpose::sde_noise});
    const RandomKey key{.key = stream.key(), .stream = stream.stream()};
    std::vector<float> expected(count);
    for (float& value : expected) value = static_cast<float>(stream.normal());
    const at::Tensor out = at::empty({count}, at::kFloat);
    keyed_normal_(out, key);
    EXPECT_TRUE(at::equal(out, at::from_blob(expected.data(), {count}, at::kFloat))) << count;
  }
}

TEST(KeyedRandom, UniformsAreThoseOfTheStream) {
  for (const int64_t count : {1, 4, 5, 50003}) {
    RandomStream stream({.seed = 1234567890123456789ULL, .prompt = 1});
    const RandomKey key{.key = stream.key(), .stream = stream.stream()};
    std::vector<float> expected(count);
    for (float& value : expected) value = static_cast<float>(stream.next_u32() >> 8) * 0x1.0p-24F;
    const at::Tensor out = at::empty({count}, at::kFloat);
    keyed_uniform_(out, key);
    EXPECT_TRUE(at::equal(out, at::from_blob(expected.data(), {count}, at::kFloat))) << count;
  }
}

TEST(KeyedRandom, ARowIsAFunctionOfItsNumberAndBeginsAsAShorterOne) {
  const RandomKey key{.key = 11, .stream = 12};
  const at::Tensor rows = at::tensor({5, -3, 0, 5}, at::kLong);
  for (const int64_t width : {1, 4, 7, 1000}) {
    const at::Tensor out = at::empty({4, width}, at::kFloat);
    keyed_uniform_rows_(out, rows, key);
    EXPECT_TRUE(at::equal(out[0], out[3]));
    for (int64_t r = 0; r < 4; ++r) {
      const at::Tensor alone = at::empty({width}, at::kFloat);
      keyed_uniform_(alone, {.key = 11, .stream = 12 ^ static_cast<uint64_t>(rows[r].item<int64_t>())});
      EXPECT_TRUE(at::equal(out[r], alone)) << width << ", " << r;
    }
  }
  EXPECT_THROW(keyed_uniform_rows_(at::empty({3, 2}), rows, key), c10::Error);
}

TEST(KeyedRandom, OtherThanContiguousFloat32IsRefused) {
  EXPECT_THROW(keyed_normal_(at::empty({4}, at::kDouble), {}), c10::Error);
  EXPECT_THROW(keyed_uniform_(at::empty({4, 2}, at::kFloat).t(), {}), c10::Error);
}

}  // namespace
}  // namespace unigrpo::kernels
