#include "nn/row_exchange.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

#include "support/ranks.h"
#include "support/tensors.h"
#include "tensor/convert.h"

namespace unigrpo::nn {
namespace {

using testing::close;

const RowHolders kFrom = {{0, 1, 6}, {2, 3, 6, 0}, {}, {5, 4}};  // 0 and 6 are on two ranks
const RowHolders kTo = {{}, {6, 0, 4}, {0, 1, 2, 3, 4, 5}, {0}};

at::Tensor values(const std::vector<int64_t>& rows) {
  const at::Tensor ids = tensor::index_tensor(rows).to(at::kDouble);
  return at::stack({ids + 1, ids.square()}, 1);
}

/// Of a rank's copy of a row its loss has this share.
double weight(size_t rank, int64_t row) { return static_cast<double>(rank + 1) + 0.1 * static_cast<double>(row); }

TEST(RowExchange, MovesRowsAndSumsTheGradientsOfTheirCopies) {
  const auto errors = test::run_ranks(4, [](parallel::Comm& comm) {
    const auto rank = static_cast<size_t>(comm.rank());
    const RowExchange exchange(RankGroup(&comm, [](parallel::Comm*) {}), kFrom, kTo);
    const at::Tensor own = values(kFrom[rank]).reshape({-1, 2}).requires_grad_();
    const at::Tensor got = exchange(own);
    EXPECT_TRUE(at::equal(got.detach(), values(kTo[rank]).reshape({-1, 2})));

    std::vector<double> weights;
    for (const int64_t row : kTo[rank]) weights.push_back(weight(rank, row));
    (got * at::tensor(weights, at::kDouble).unsqueeze(1)).sum().backward();
    std::vector<double> gradients;
    for (const int64_t row : kFrom[rank]) {
      double sum = 0;
      const bool is_copy = rank == 1 && (row == 0 || row == 6);  // rank 0's is sent
      for (size_t to = 0; to < kTo.size() && !is_copy; ++to) {
        if (std::ranges::count(kTo[to], row) > 0) sum += weight(to, row);
      }
      gradients.push_back(sum);
    }
    const at::Tensor expected = at::tensor(gradients, at::kDouble).unsqueeze(1).expand({-1, 2});
    EXPECT_TRUE(close(own.grad(), expected, 1e-12)) << rank << own.grad() << expected;
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(RowExchange, RefusesARowThatNobodyHas) {
  const auto errors = test::run_ranks(2, [](parallel::Comm& comm) {
    EXPECT_THROW(RowExchange(RankGroup(&comm, [](parallel::Comm*) {}), {{0}, {1}}, {{0}, {2}}), std::invalid_argument);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

}  // namespace
}  // namespace unigrpo::nn
