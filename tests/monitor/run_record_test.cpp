#include "monitor/run_record.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo::monitor {
namespace {

using testing::TempFolder;

Launch launch() {
  return {.version = "0.1.0",
          .commit = "0123456789ab",
          .libtorch = "2.8.0",
          .cpu = "A CPU (AVX2)",
          .threads = 2,
          .command = "unigrpo train 'my recipe.toml'",
          .start = "2026-01-31T12:00:00Z"};
}

TEST(RunRecord, ReadsBackWhatWasWritten) {
  const TempFolder folder;
  RunRecord record{.first = launch(), .inputs = {{"data.prompts", {.path = "p.jsonl", .sha256 = "ab"}}}};
  record.resumed.push_back(launch());
  record.resumed[0].step = 20;
  const auto file = folder.path() / "run.json";
  EXPECT_EQ(read_run_record(file), std::nullopt);
  write_run_record(file, record);
  EXPECT_EQ(read_run_record(file), record);
}

TEST(RunRecord, ABrokenOneIsNamed) {
  const TempFolder folder;
  const auto file = folder.write("run.json", R"({"version": "0.1.0"})");
  try {
    read_run_record(file);
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("run.json: not the record of a run: "), std::string::npos) << error.what();
  }
}

TEST(RunRecord, AnotherBuildIsTold) {
  Launch other = launch();
  other.start = "later", other.threads = 4, other.command = "unigrpo train r.toml --resume";
  EXPECT_EQ(changed_build(launch(), other), "");
  other.commit = "ba9876543210";
  other.cpu = "B CPU (AVX512)";
  EXPECT_EQ(changed_build(launch(), other),
            "commit 0123456789ab, now ba9876543210; CPU A CPU (AVX2), now B CPU (AVX512)");
}

}  // namespace
}  // namespace unigrpo::monitor
