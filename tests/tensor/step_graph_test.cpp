#include "tensor/step_graph.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "support/pretend_graph.h"

namespace unigrpo::tensor {
namespace {

using testing::GraphCounts;
using testing::pretend_graphs;

at::Tensor sum_of(const std::vector<at::Tensor>& in) { return in[0] + in[1]; }

TEST(RecordedStep, PlaysBackWhatIsInTheInputsNow) {
  GraphCounts counts;
  RecordedStep step(pretend_graphs(counts), &sum_of, /*plain_calls=*/2);
  std::vector<at::Tensor> results;
  for (int i = 0; i < 6; ++i) {
    at::Tensor a = at::full({3}, i), b = at::full({3}, 10);
    results.push_back(step({a, b}));
    a.fill_(-1);  // the caller's own again
    EXPECT_EQ(counts.records, i < 2 ? 0 : 1);
    EXPECT_EQ(counts.plays, i < 3 ? 0 : i - 2);
  }
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(at::equal(results[i], at::full({3}, i + 10))) << i;
}

TEST(RecordedStep, TheRecordedStepReadsNothingOfTheCallers) {
  GraphCounts counts;
  std::vector<const void*> read;
  const auto step = [&](const std::vector<at::Tensor>& in) {
    read.push_back(in[0].const_data_ptr());
    return in[0] * 2;
  };
  RecordedStep recorded(pretend_graphs(counts), step, /*plain_calls=*/0);
  const at::Tensor first = at::ones({2}), second = at::zeros({2});
  recorded({first});
  recorded({second});
  ASSERT_EQ(read.size(), 2U);
  EXPECT_EQ(read[0], read[1]);
  EXPECT_NE(read[0], first.const_data_ptr());
}

TEST(RecordedSteps, KeepTheLatestShapesAndForgetWhenTold) {
  GraphCounts counts;
  RecordedSteps steps;
  EXPECT_FALSE(steps.on());
  steps.set(pretend_graphs(counts));
  EXPECT_TRUE(steps.on());
  const auto call = [&](int64_t n) { return steps.of({n}, &sum_of, 0)({at::ones({n}), at::ones({n})}); };
  const auto most = static_cast<int64_t>(RecordedSteps::kMostShapes);
  for (int64_t n = 1; n <= most; ++n) call(n);
  EXPECT_EQ(counts.records, most);
  call(1);  // the oldest is the latest now
  EXPECT_EQ(counts.plays, 1);
  call(most + 1);  // 2 has to go
  EXPECT_EQ(steps.size(), RecordedSteps::kMostShapes);
  call(1);
  EXPECT_EQ(counts.records, most + 1);
  call(2);
  EXPECT_EQ(counts.records, most + 2);
  steps.forget();
  EXPECT_EQ(steps.size(), 0U);
  steps.set({});
  EXPECT_FALSE(steps.on());
}

TEST(GraphsOf, TheCpuHasNone) { EXPECT_THROW(graphs_of(at::kCPU), std::logic_error); }

}  // namespace
}  // namespace unigrpo::tensor
