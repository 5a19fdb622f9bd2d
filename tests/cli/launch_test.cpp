#include "cli/launch.h"

#include <gtest/gtest.h>
#include <signal.h>

namespace unigrpo::cli {
namespace {

RankEnd code(int value) { return {.code = value}; }
RankEnd killed(int signal, bool by_launcher = false) { return {.signal = signal, .by_launcher = by_launcher}; }

TEST(JobCode, IsTheWorstThatAnyRankEndedWith) {
  EXPECT_EQ(job_code({code(0), code(0)}), ExitCode::done);
  EXPECT_EQ(job_code({code(0), code(130)}), ExitCode::interrupted);
  EXPECT_EQ(job_code({code(130), code(75), code(0)}), ExitCode::try_again);
  EXPECT_EQ(job_code({code(75), code(1), code(130)}), ExitCode::failed);
  EXPECT_EQ(job_code({code(1), code(75), code(2)}), ExitCode::bad_input);
  EXPECT_EQ(job_code({code(127), code(75)}), ExitCode::failed);
}

TEST(JobCode, ARankThatWasKilledIsLost) {
  EXPECT_EQ(job_code({killed(SIGKILL), code(75)}), ExitCode::try_again);
  EXPECT_EQ(job_code({killed(SIGSEGV), code(0)}), ExitCode::try_again);
  EXPECT_EQ(job_code({killed(SIGSEGV), code(1)}), ExitCode::failed);
  EXPECT_EQ(job_code({killed(SIGKILL, true), code(75)}), ExitCode::try_again);  // it was stopped, and could not end
}

TEST(JobCode, ARankThatTheLaunchersSignalEndedIsNotLost) {
  EXPECT_EQ(job_code({killed(SIGTERM, true), code(2)}), ExitCode::bad_input);
  EXPECT_EQ(job_code({killed(SIGTERM, true), killed(SIGTERM, true)}), ExitCode::interrupted);
}

}  // namespace
}  // namespace unigrpo::cli
