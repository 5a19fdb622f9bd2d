#include "base/log.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <regex>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo {
namespace {

TEST(Log, GoesToStderrAndWithTimeStampsToTheFile) {
  const testing::TempFolder folder;
  const auto path = folder.write("log.txt", "earlier\n");
  ::testing::internal::CaptureStderr();
  log::info("one {not a format}");
  log::to_file(path);
  log::set_quiet(true);
  log::info("two");
  log::warn("three");
  log::set_quiet(false);
  log::error("four");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "one {not a format}\nwarning: three\nerror: four\n");
  std::ifstream file(path);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const std::string stamp = R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)";
  EXPECT_TRUE(std::regex_match(
      text, std::regex("earlier\n" + stamp + " info two\n" + stamp + " warning three\n" + stamp + " error four\n")))
      << text;
  EXPECT_THROW(log::to_file("/proc/no/such/log.txt"), RuntimeFailure);
}

}  // namespace
}  // namespace unigrpo
