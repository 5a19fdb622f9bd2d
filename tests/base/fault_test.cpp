#include "base/fault.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <csignal>

#include "base/error.h"

namespace unigrpo {
namespace {

class Fault : public ::testing::Test {
 protected:
  void TearDown() override { fault::configure(""); }
};

TEST_F(Fault, IsOffByDefault) {
  fault::point("some.point");
  EXPECT_EQ(fault::effect("some.point").error, 0);
}

TEST_F(Fault, FiresOnceAtItsHit) {
  fault::configure("a:2=enospc,a:3=erofs,b=nan,d=inf");
  EXPECT_EQ(fault::effect("a").error, 0);
  EXPECT_EQ(fault::effect("a").error, ENOSPC);
  EXPECT_EQ(fault::effect("a").error, EROFS);
  EXPECT_EQ(fault::effect("a").error, 0);
  EXPECT_TRUE(std::isnan(fault::effect("b").bad.value()));
  EXPECT_FALSE(fault::effect("c").bad);
  EXPECT_TRUE(std::isinf(fault::effect("d").bad.value()));
}

TEST_F(Fault, ThrowsWhereThePointCannotActItOut) {
  fault::configure("a=throw,b=eio,c=nan,d=inf");
  EXPECT_THROW(fault::point("a"), RuntimeFailure);
  EXPECT_THROW(fault::point("b"), RuntimeFailure);
  EXPECT_THROW(fault::point("c"), RuntimeFailure);
  EXPECT_THROW(fault::point("d"), RuntimeFailure);
}

TEST_F(Fault, EndsTheProcess) {
  const auto pass = [](const char* specification) {
    fault::configure(specification);
    fault::point("a");
  };
  EXPECT_EXIT(pass("a=kill"), ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(pass("a=segv"), ::testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(pass("a=exit"), ::testing::ExitedWithCode(1), "");
}

TEST_F(Fault, AppliesToItsRankOnly) {
  ASSERT_EQ(setenv("RANK", "2", 1), 0);
  fault::configure("a@1=eio,b@2=eio");
  EXPECT_EQ(fault::effect("a").error, 0);
  EXPECT_EQ(fault::effect("b").error, EIO);
  unsetenv("RANK");
}

TEST_F(Fault, RefusesASpecificationItCannotRead) {
  for (const char* bad : {"a", "a=", "=kill", "a=die", "a:x=kill", "a=delay", "a=kill:3", "a@x=kill", "a=delay:soon"}) {
    EXPECT_THROW(fault::configure(bad), BadInput) << bad;
  }
}

}  // namespace
}  // namespace unigrpo
