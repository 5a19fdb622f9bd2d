#include "nn/gathered_products.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/linear.h"
#include "support/ranks.h"
#include "support/tensors.h"

namespace unigrpo::nn {
namespace {

using testing::close;

constexpr const char* kPurpose = "test";

at::Tensor seeded(int64_t seed, std::vector<int64_t> shape) {
  const at::Tensor ramp = at::arange(at::empty(shape).numel(), at::kFloat).reshape(shape);
  return at::sin(ramp * 1.7 + static_cast<double>(seed));
}

void on_ranks(const std::function<void(const RankGroup&)>& work) {
  const auto errors = test::run_ranks(3, [&](parallel::Comm& comm) { work(RankGroup(&comm, [](parallel::Comm*) {})); });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(GatheredProducts, AreThoseOfAllRowsAndGoBackToTheirRanks) {
  const RowCounts counts{.und = {2, 0, 3}, .gen = {1, 2, 0}};
  const auto row = [](int64_t number) { return seeded(number, {1, 4}); };
  // Rank r has the understanding rows first(r).. and the generation rows 100 + first(r)..
  const auto first = [](const std::vector<int64_t>& of, int64_t rank) {
    int64_t sum = 0;
    for (int64_t r = 0; r < rank; ++r) sum += of[static_cast<size_t>(r)];
    return sum;
  };
  const auto rows_of = [&](int64_t from, int64_t count) {
    std::vector<at::Tensor> rows = {at::empty({0, 4})};
    for (int64_t i = 0; i < count; ++i) rows.push_back(row(from + i));
    return at::cat(rows, 0);
  };
  on_ranks([&](const RankGroup& group) {
    const auto r = static_cast<size_t>(group->rank());
    const int64_t first_und = first(counts.und, group->rank()), first_gen = first(counts.gen, group->rank());
    const at::Tensor own = at::cat({rows_of(first_und, counts.und[r]), rows_of(100 + first_gen, counts.gen[r])}, 0)
                               .clone()
                               .requires_grad_();
    // Each rank has weights of its own; one of them is frozen.
    const auto weight = [](size_t rank, int64_t k) {
      return seeded(1000 * static_cast<int64_t>(rank) + k, {3 + k, 4});
    };
    const at::Tensor w0 = weight(r, 0).requires_grad_(), w1 = weight(r, 1), w2 = weight(r, 2).requires_grad_();
    const WeightPair got = gathered_products(own, counts, {.und = {w0, w1}, .gen = {w2}}, group, kPurpose);
    const at::Tensor und = rows_of(0, 5), gen = rows_of(100, 3);
    EXPECT_TRUE(close(got.und[0], at::mm(und, w0.detach().t()), 1e-5));
    EXPECT_TRUE(close(got.und[1], at::mm(und, w1.t()), 1e-5));
    EXPECT_TRUE(close(got.gen[0], at::mm(gen, w2.detach().t()), 1e-5));
    (got.und[0].square().sum() + got.und[1].sum() + got.gen[0].square().sum()).backward();
    EXPECT_TRUE(close(w0.grad(), 2 * at::mm(got.und[0].detach().t(), und), 1e-5));
    EXPECT_TRUE(close(w2.grad(), 2 * at::mm(got.gen[0].detach().t(), gen), 1e-5));
    at::Tensor want_und = at::zeros_like(und), want_gen = at::zeros_like(gen);
    for (size_t rank = 0; rank < 3; ++rank) {
      const at::Tensor a = weight(rank, 0), b = weight(rank, 1), c = weight(rank, 2);
      want_und += 2 * at::mm(at::mm(und, a.t()), a) + at::mm(at::ones({5, 4}), b);
      want_gen += 2 * at::mm(at::mm(gen, c.t()), c);
    }
    const at::Tensor want =
        at::cat({want_und.narrow(0, first_und, counts.und[r]), want_gen.narrow(0, first_gen, counts.gen[r])}, 0);
    EXPECT_TRUE(close(own.grad(), want, 1e-5));
  });
}

TEST(GatheredProducts, GoBackWhereAnotherRankAloneTrains) {
  const RowCounts counts{.und = {1, 1, 1}, .gen = {0, 0, 0}};
  on_ranks([&](const RankGroup& group) {
    const bool trains = group->rank() == 1;
    const at::Tensor own = seeded(group->rank(), {1, 4}), weight = seeded(7, {2, 4}).requires_grad_(trains);
    const WeightPair got = gathered_products(own, counts, {.und = {weight}, .gen = {}}, group, kPurpose);
    EXPECT_TRUE(got.und[0].requires_grad());
    got.und[0].sum().backward();
    EXPECT_EQ(weight.grad().defined(), trains);
  });
}

}  // namespace
}  // namespace unigrpo::nn
