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

std::string change_of(const OptimConfig& config, int64_t num_steps, int64_t length_before, double& factor) {
  RunSchedule schedule(config, num_steps);
  schedule.load_state({.values = {{"steps", std::to_string(length_before)}}}, "here");
  factor = schedule.factor(2);
  return schedule.describe_change(2);
}

TEST(RunSchedule, KeepsTheLengthThatTheRunBeganWithAndSaysSo) {
  OptimConfig config = config_of(Schedule::linear, 0);
  config.lr = 1e-3;
  double factor = 0;
  EXPECT_EQ(change_of(config, 4, 4, factor), "");
  EXPECT_DOUBLE_EQ(factor, 0.5);
  EXPECT_EQ(
      change_of(config, 8, 4, factor),
      "the linear schedule keeps the 4 steps that the run began with, though run.num_steps is 8 now: the learning "
      "rate of step 3 is 0.0005; with optim.schedule_steps = 8 it would be 0.00075");
  EXPECT_DOUBLE_EQ(factor, 0.5);
  EXPECT_NE(change_of(config, 3, 4, factor), "");  // a shorter run
  EXPECT_DOUBLE_EQ(factor, 0.5);
  config.schedule = Schedule::constant;
  EXPECT_EQ(change_of(config, 8, 4, factor), "");
}

TEST(RunSchedule, AKeyOfItsOwnDecides) {
  OptimConfig config = config_of(Schedule::cosine, 0);
  config.lr = 1e-3;
  config.schedule_steps = 8;
  double factor = 0;
  EXPECT_EQ(RunSchedule(config, 4).factor(4), lr_factor(config, 4, 8));
  EXPECT_EQ(change_of(config, 16, 8, factor), "");
  EXPECT_EQ(factor, lr_factor(config, 2, 8));
  EXPECT_EQ(change_of(config, 8, 4, factor),
            "optim.schedule_steps: the cosine schedule has 8 steps now, 4 before: the learning rate of step 3 is "
            "0.000854 instead of 0.0005");
  EXPECT_EQ(factor, lr_factor(config, 2, 8));
}

}  // namespace
}  // namespace unigrpo::optim
