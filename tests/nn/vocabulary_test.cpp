#include "nn/vocabulary.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/gather_log_prob.h"
#include "support/ranks.h"
#include "support/tensors.h"

namespace unigrpo::nn {
namespace {

using testing::close;

constexpr int64_t kVocabulary = 10, kRanks = 3;  // 3, 3 and 4 ids

at::Tensor seeded(int64_t seed, at::IntArrayRef shape) {
  return at::sin(at::arange(c10::multiply_integers(shape), at::kFloat).reshape(shape) * 1.7 +
                 static_cast<double>(seed));
}

void on_ranks(const std::function<void(const RankGroup&, int64_t first, int64_t count)>& work) {
  const auto errors = test::run_ranks(kRanks, [&](parallel::Comm& comm) {
    const int64_t first = share_begin(kVocabulary, comm.rank(), kRanks);
    work(RankGroup(&comm, [](parallel::Comm*) {}), first, share_begin(kVocabulary, comm.rank() + 1, kRanks) - first);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Vocabulary, EmbeddingsAreThoseOfTheWholeTableAndGoBackToTheirRows) {
  const at::Tensor ids = at::tensor({9, 0, 3, 3, 2, 6}, at::kLong);
  const at::Tensor table = seeded(1, {kVocabulary, 4});
  const auto upstream = [](int64_t rank) { return seeded(20 + rank, {6, 4}); };
  on_ranks([&](const RankGroup& group, int64_t first, int64_t count) {
    const at::Tensor own = table.narrow(0, first, count).clone().requires_grad_();
    const at::Tensor got = sliced_embedding(own, ids, first, group);
    EXPECT_TRUE(at::equal(got, at::embedding(table, ids)));
    (got * upstream(group->rank())).sum().backward();
    const at::Tensor whole = table.clone().requires_grad_();
    (at::embedding(whole, ids) * (upstream(0) + upstream(1) + upstream(2))).sum().backward();
    EXPECT_TRUE(close(own.grad(), whole.grad().narrow(0, first, count), 1e-5));
  });
}

TEST(Vocabulary, LogProbsAndTheirGradientsAreThoseOfTheWholeRow) {
  const at::Tensor ids = at::tensor({9, 0, 3, 3, 2}, at::kLong);
  for (const double size : {1.0, 30.0}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor all = (seeded(2, {5, kVocabulary}) * size).to(type);
      const at::Tensor whole = all.clone().requires_grad_(), upstream = seeded(3, {5});
      const at::Tensor want = kernels::gather_log_prob(whole, ids, 0.7).log_probs;
      (want * upstream).sum().backward();
      on_ranks([&](const RankGroup& group, int64_t first, int64_t count) {
        const at::Tensor own = all.narrow(1, first, count).clone().requires_grad_();
        const at::Tensor got = sliced_log_probs(own, ids, first, 0.7, group);
        EXPECT_EQ(got.scalar_type(), at::kFloat);
        EXPECT_TRUE(close(got, want.detach(), 1e-6, 2e-7));
        (got * upstream).sum().backward();
        EXPECT_TRUE(close(own.grad().to(at::kFloat), whole.grad().narrow(1, first, count).to(at::kFloat),
                          type == at::kFloat ? 1e-5 : 1e-2));
        EXPECT_TRUE(at::equal(whole_logits(all.narrow(1, first, count), kVocabulary, group), all));
      });
    }
  }
}

TEST(Vocabulary, NoRowsAreNoFault) {
  on_ranks([&](const RankGroup& group, int64_t first, int64_t count) {
    const at::Tensor ids = at::empty({0}, at::kLong);
    EXPECT_EQ(sliced_embedding(at::ones({count, 4}), ids, first, group).sizes(), at::IntArrayRef({0, 4}));
    EXPECT_EQ(sliced_log_probs(at::ones({0, count}), ids, first, 1.0, group).sizes(), at::IntArrayRef({0}));
  });
}

}  // namespace
}  // namespace unigrpo::nn
