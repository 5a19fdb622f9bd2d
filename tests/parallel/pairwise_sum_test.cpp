#include "parallel/pairwise_sum.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace unigrpo::parallel {
namespace {

at::Tensor term(int64_t place) { return at::full({3}, 1.0 / (3.0 + static_cast<double>(place * place)), at::kFloat); }

bool is_there(int64_t place, int64_t seed) { return (place * 7 + seed) % 5 != 0; }

/// The tree written down: halves of a block, each by itself, what is missing left out.
at::Tensor of_block(int64_t first, int64_t size, int64_t count, int64_t seed) {
  if (size == 1) return first < count && is_there(first, seed) ? term(first) : at::Tensor();
  const at::Tensor low = of_block(first, size / 2, count, seed),
                   high = of_block(first + size / 2, size / 2, count, seed);
  if (!low.defined() || !high.defined()) return low.defined() ? low : high;
  return low + high;
}

TEST(PairwiseSum, IsTheTreeOfItsPlaces) {
  for (int64_t seed = 0; seed < 5; ++seed) {
    for (int64_t count = 1; count <= 70; ++count) {
      PairwiseSum sum;
      for (int64_t place = 0; place < count; ++place) {
        if (is_there(place, seed)) sum.add(place, term(place));
      }
      const at::Tensor wanted = of_block(0, 128, count, seed), total = sum.take();
      ASSERT_EQ(total.defined(), wanted.defined());
      if (wanted.defined()) {
        ASSERT_TRUE(at::equal(total, wanted)) << count << " places";
      }
    }
  }
}

TEST(PairwiseSum, BlocksOfNeighboursMayBeBroughtInTogether) {
  for (const int64_t block : {2, 4, 8}) {
    PairwiseSum one_by_one, by_blocks;
    for (int64_t first = 0; first < 40; first += block) {
      PairwiseSum of_this_block;
      for (int64_t place = first; place < first + block; ++place) {
        one_by_one.add(place, term(place));
        of_this_block.add(place - first, term(place));
      }
      by_blocks.add(first / block, of_this_block.take());
    }
    EXPECT_TRUE(at::equal(one_by_one.take(), by_blocks.take())) << block;
    EXPECT_FALSE(one_by_one.take().defined());
  }
}

}  // namespace
}  // namespace unigrpo::parallel
