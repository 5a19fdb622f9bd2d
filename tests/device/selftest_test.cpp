// The official code's numbers, computed on a device.
#include <gtest/gtest.h>

#include <sstream>

#include "cli/selftest_bagel.h"
#include "cli/selftest_vectors.h"
#include "support/pretend_device.h"

namespace unigrpo::cli {
namespace {

TEST(SelftestOnDevice, AllVectorsPass) {
  std::ostringstream out;
  EXPECT_EQ(run_selftest_vectors(UNIGRPO_TEST_DATA "/vectors.json", out, testing::any_device()), 0);
  EXPECT_EQ(out.str(), "107 passed, 0 failed\n");
}

TEST(SelftestOnDevice, AllEntriesOfBagelPass) {
  std::ostringstream out;
  EXPECT_EQ(run_selftest_bagel(UNIGRPO_TEST_DATA "/bagel_tiny", out, {.device = testing::any_device()}), 0);
  EXPECT_TRUE(out.str().ends_with("49 passed, 0 failed\n")) << out.str();
}

}  // namespace
}  // namespace unigrpo::cli
