#include "train/out_of_memory.h"

#include <gtest/gtest.h>

#include "support/tensors.h"

namespace unigrpo::train {
namespace {

TEST(WithinMemory, NamesThePhaseAndTheKeyThatHelps) {
  auto full = []() -> bool {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory.\nTried to allocate 2 GiB");
  };
  EXPECT_EQ(
      testing::message_of<RuntimeFailure>([&] { within_memory("update", "grpo.micro_batch_tokens", 8192, full); }),
      "update: the device is out of memory; a grpo.micro_batch_tokens below 8192 takes less (CUDA out of memory.)");
}

TEST(WithinMemory, LeavesResultsAndOtherErrorsAlone) {
  EXPECT_TRUE(within_memory("rollout", "rollout.token_budget", 1, [] { return true; }));
  EXPECT_THROW(within_memory("rollout", "rollout.token_budget", 1, []() -> bool { throw BadInput("a file"); }),
               BadInput);
}

}  // namespace
}  // namespace unigrpo::train
