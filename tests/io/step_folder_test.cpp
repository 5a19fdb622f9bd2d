#include "io/step_folder.h"

#include <gtest/gtest.h>

namespace unigrpo::io {
namespace {

TEST(StepName, SortsAndReadsBack) {
  EXPECT_EQ(step_name(20), "step_000020");
  EXPECT_EQ(step_name(12345678), "step_12345678");
  for (const int64_t step : {0L, 20L, 999999L, 12345678L}) EXPECT_EQ(parse_step_name(step_name(step)), step);
  for (const char* name :
       {"step_20", "step_000020x", "step_", "step_-00020", "step_0000020", ".tmp-step_000020-1", ".trash-step_000020-1",
        "damaged-step_000020-1", "before", "", "step_99999999999999999999"}) {
    EXPECT_FALSE(parse_step_name(name)) << name;
  }
}

}  // namespace
}  // namespace unigrpo::io
