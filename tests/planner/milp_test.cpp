#include "planner/milp.h"

#include <gtest/gtest.h>

#include <cmath>

namespace unigrpo::planner {
namespace {

/// Least 3 x + 2 y with 2 x + 3 y >= `least`, x and y up to 4.
Milp program(bool integer, double least) {
  Milp out;
  out.columns = {{3, 0, 4, integer, {{0, 2}}}, {2, 0, 4, integer, {{0, 3}}}};
  out.rows = {{least, 1e30}};
  return out;
}

TEST(Milp, BoundsWhatNoSolutionUndercuts) {
  if (!has_milp_solver()) GTEST_SKIP() << "no Cbc here";
  EXPECT_NEAR(*milp_lower_bound(program(true, 7), 100), 6, 1e-6);  // y = 3
  EXPECT_FALSE(milp_lower_bound(program(false, 7), 100));
  EXPECT_TRUE(std::isinf(*milp_lower_bound(program(true, 21), 100)));
}

TEST(Milp, WithoutASolverThereIsNoBound) {
  if (has_milp_solver()) GTEST_SKIP() << "Cbc is here";
  EXPECT_FALSE(milp_lower_bound(program(true, 7), 100));
}

}  // namespace
}  // namespace unigrpo::planner
