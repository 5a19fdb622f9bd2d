#include "optim/schedule.h"

#include <gtest/gtest.h>

namespace unigrpo::optim {
namespace {

OptimConfig config_of(Schedule schedule, int64_t warmup_steps) {
  OptimConfig config;
  config.schedule = schedule;
  config.warmup_steps = warmup_steps;
  return config;
}

TEST(Schedule, WarmsUpAndStays) {
  const OptimConfig config = config_of(Schedule::constant, 4);
  EXPECT_DOUBLE_EQ(lr_factor(config, 0, 100), 0.25);
  EXPECT_DOUBLE_EQ(lr_factor(config, 3, 100), 1.0);
  EXPECT_DOUBLE_EQ(lr_factor(config, 99, 100), 1.0);
  EXPECT_DOUBLE_EQ(lr_factor(config_of(Schedule::constant, 0), 0, 1), 1.0);
}

TEST(Schedule, FallsToZeroAtTheEnd) {
  for (const Schedule schedule : {Schedule::linear, Schedule::cosine}) {
    const OptimConfig config = config_of(schedule, 10);
    EXPECT_DOUBLE_EQ(lr_factor(config, 10, 110), 1.0);
    EXPECT_NEAR(lr_factor(config, 60, 110), 0.5, 1e-12);
    EXPECT_NEAR(lr_factor(config, 110, 110), 0.0, 1e-12);
    EXPECT_NEAR(lr_factor(config, 500, 110), 0.0, 1e-12);
    EXPECT_GT(lr_factor(config, 109, 110), 0.0);
  }
  EXPECT_NEAR(lr_factor(config_of(Schedule::linear, 0), 25, 100), 0.75, 1e-12);
}

TEST(Schedule, SurvivesAWarmUpLongerThanTheRun) {
  EXPECT_DOUBLE_EQ(lr_factor(config_of(Schedule::cosine, 50), 9, 10), 0.2);
  EXPECT_DOUBLE_EQ(lr_factor(config_of(Schedule::cosine, 10), 9, 10), 1.0);
}

}  // namespace
}  // namespace unigrpo::optim
