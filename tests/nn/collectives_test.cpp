#include "nn/collectives.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "support/ranks.h"
#include "support/tensors.h"

namespace unigrpo::nn {
namespace {

using testing::close;

constexpr int64_t kRanks = 3;
constexpr const char* kPurpose = "test";

at::Tensor seeded(int64_t seed, std::vector<int64_t> shape) {
  const at::Tensor ramp = at::arange(at::empty(shape).numel(), at::kDouble).reshape(shape);
  return at::sin(ramp * 1.7 + static_cast<double>(seed));
}

/// What each rank has, a leaf; the ranks' tensors end to end are the plain ones.
void on_ranks(const std::function<void(const RankGroup&)>& work) {
  const auto errors =
      test::run_ranks(kRanks, [&](parallel::Comm& comm) { work(RankGroup(&comm, [](parallel::Comm*) {})); });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Collectives, ExchangesUnevenRowsAndTheirGradients) {
  // count(from, to): rank `from` sends so many rows to `to`; some nothing.
  const auto count = [](int64_t from, int64_t to) { return (2 * from + to) % 4; };
  on_ranks([&](const RankGroup& group) {
    const int64_t r = group->rank();
    std::vector<int64_t> in, out;
    for (int64_t other = 0; other < kRanks; ++other) {
      in.push_back(count(r, other));
      out.push_back(count(other, r));
    }
    const int64_t rows = std::accumulate(in.begin(), in.end(), int64_t{0});
    const at::Tensor own = seeded(r, {rows, 2}).requires_grad_();
    const at::Tensor got = exchange_rows(own, out, in, group, kPurpose);
    int64_t place = 0;
    for (int64_t from = 0; from < kRanks; ++from) {
      int64_t first = 0, all = 0;
      for (int64_t to = 0; to < kRanks; ++to) {
        if (to < r) first += count(from, to);
        all += count(from, to);
      }
      const at::Tensor sent = seeded(from, {all, 2}).narrow(0, first, count(from, r));
      EXPECT_TRUE(at::equal(got.detach().narrow(0, place, count(from, r)), sent));
      place += count(from, r);
    }
    // The loss of a rank is (r + 1) * sum of squares: a row's gradient is 2 (r + 1) x, r where it went.
    ((r + 1) * got.square()).sum().backward();
    int64_t first = 0;
    for (int64_t to = 0; to < kRanks; ++to) {
      const at::Tensor part = own.detach().narrow(0, first, in[to]);
      EXPECT_TRUE(close(own.grad().narrow(0, first, in[to]), 2 * (to + 1) * part, 1e-12));
      first += in[to];
    }
  });
}

TEST(Collectives, GathersRowsAndGivesEachRankItsGradient) {
  const std::vector<int64_t> counts = {2, 0, 3};
  for (const GatheredGradient gradient : {GatheredGradient::part, GatheredGradient::alike}) {
    on_ranks([&](const RankGroup& group) {
      const int64_t r = group->rank();
      const at::Tensor own = seeded(r, {counts[r], 2}).requires_grad_();
      const at::Tensor all = gather_rows(own, counts, group, gradient, kPurpose);
      EXPECT_TRUE(at::equal(all.detach(), at::cat({seeded(0, {2, 2}), seeded(2, {3, 2})}, 0)));
      const double factor = gradient == GatheredGradient::part ? static_cast<double>(r + 1) : 6.0;  // 1 + 2 + 3 = 6
      (factor * all.square()).sum().backward();
      EXPECT_TRUE(close(own.grad(), 12 * own.detach(), 1e-12));
    });
  }
}

TEST(Collectives, SumsRowsOfAllRanksAndScattersThem) {
  const std::vector<int64_t> counts = {1, 2, 0};
  on_ranks([&](const RankGroup& group) {
    const int64_t r = group->rank();
    const at::Tensor all = seeded(r, {3, 2}).requires_grad_();
    const at::Tensor own = sum_scatter_rows(all, counts, group, kPurpose);
    const at::Tensor sum = seeded(0, {3, 2}) + seeded(1, {3, 2}) + seeded(2, {3, 2});
    EXPECT_TRUE(close(own.detach(), sum.narrow(0, r == 0 ? 0 : (r == 1 ? 1 : 3), counts[r]), 1e-12));
    ((r + 1) * own).sum().backward();
    EXPECT_TRUE(close(all.grad(), at::tensor({1.0, 2.0, 2.0}, at::kDouble).unsqueeze(1).expand({3, 2}), 1e-12));
  });
}

TEST(Collectives, SumsBf16InFloat32) {
  on_ranks([&](const RankGroup& group) {
    const double value = group->rank() == 0 ? 256 : 1;  // in bf16 256 + 1 + 1 is 256, or 258 where it is rounded once
    const at::Tensor all = at::full({kRanks, 1}, value, at::kBFloat16);
    EXPECT_EQ(sum_scatter_rows(all, {1, 1, 1}, group, kPurpose).item<double>(), 258);
  });
}

TEST(Collectives, GoBackOnAllRanksWhereOneNeedsAGradient) {
  // Rank 0's rows alone train; the others' gradients reach it all the same.
  on_ranks([&](const RankGroup& group) {
    const int64_t r = group->rank();
    const at::Tensor own = at::ones({1, 2}, at::kDouble).set_requires_grad(r == 0);
    const at::Tensor all = gather_rows(own, {1, 1, 1}, group, GatheredGradient::part, kPurpose);
    EXPECT_TRUE(all.requires_grad());
    (static_cast<double>(r + 1) * all).sum().backward();
    if (r == 0) {
      EXPECT_TRUE(close(own.grad(), at::full({1, 2}, 6.0, at::kDouble), 1e-12));
    } else {
      EXPECT_FALSE(own.grad().defined());
    }
  });
}

TEST(Collectives, RecordNothingWithoutGradients) {
  on_ranks([&](const RankGroup& group) {
    const at::NoGradGuard no_grad;
    const at::Tensor own = at::ones({1, 2}).requires_grad_();
    EXPECT_FALSE(gather_rows(own, {1, 1, 1}, group, GatheredGradient::part, kPurpose).requires_grad());
  });
}

}  // namespace
}  // namespace unigrpo::nn
