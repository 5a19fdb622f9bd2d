#include "monitor/run_folder.h"

#include <gtest/gtest.h>

#include <optional>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo::monitor {
namespace {

using testing::TempFolder;

std::string message_of(const std::filesystem::path& path, bool resume) {
  try {
    RunFolder::open(path, resume);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "no error";
}

TEST(RunFolder, MakesTheFolderAndNamesWhatIsInIt) {
  const TempFolder temp;
  const RunFolder folder = RunFolder::open(temp.path() / "runs" / "first", false);
  EXPECT_TRUE(std::filesystem::is_directory(temp.path() / "runs" / "first"));
  EXPECT_EQ(folder.checkpoint(20), temp.path() / "runs/first/checkpoints/step_000020");
  EXPECT_EQ(folder.samples(20), temp.path() / "runs/first/samples/step_000020");
  EXPECT_EQ(folder.samples("before"), temp.path() / "runs/first/samples/before");
  EXPECT_EQ(folder.eval_file("before"), temp.path() / "runs/first/eval_before.json");
}

TEST(RunFolder, RefusesAFolderThatIsNotEmptyUnlessResumed) {
  const TempFolder temp;
  temp.write("run/metrics.jsonl", "");
  EXPECT_EQ(message_of(temp.path() / "run", false),
            (temp.path() / "run").string() + ": the run folder is not empty; --resume continues the run in it");
  EXPECT_EQ(message_of(temp.path() / "run", true), "no error");
}

TEST(RunFolder, ALockFileAloneIsAnEmptyFolder) {
  const TempFolder temp;
  { RunFolder::open(temp.path() / "run", false); }
  EXPECT_EQ(message_of(temp.path() / "run", false), "no error");
}

TEST(RunFolder, WhatAKilledProcessWasWritingIsRemoved) {
  const TempFolder temp;
  temp.write("run/.recipe.toml.tmp-17-0", "x");  // alone: killed at the very first file
  EXPECT_EQ(message_of(temp.path() / "run", true), "no error");
  EXPECT_FALSE(std::filesystem::exists(temp.path() / "run/.recipe.toml.tmp-17-0"));
  temp.write("run/recipe.toml", "x");
  temp.write("run/.final.tmp-17/config.json", "x");
  temp.write("run/samples/step_000000/.000_00.png.tmp-17-3", "x");
  temp.write("run/samples/step_000000/000_00.png", "x");
  EXPECT_EQ(message_of(temp.path() / "run", true), "no error");
  EXPECT_FALSE(std::filesystem::exists(temp.path() / "run/.final.tmp-17"));
  EXPECT_FALSE(std::filesystem::exists(temp.path() / "run/samples/step_000000/.000_00.png.tmp-17-3"));
  EXPECT_TRUE(std::filesystem::exists(temp.path() / "run/samples/step_000000/000_00.png"));
}

TEST(RunFolder, ResumesWhereOtherRanksWroteBeforeTheFirstDied) {
  for (const char* file : {"logs/rank_1.txt", "hang/rank_1.txt", "ranks.json"}) {
    const TempFolder temp;
    temp.write(std::string("run/") + file, "x");
    EXPECT_EQ(message_of(temp.path() / "run", true), "no error") << file;
    EXPECT_NE(message_of(temp.path() / "run", false).find("is not empty"), std::string::npos) << file;
  }
}

TEST(RunFolder, DoesNotResumeWhatIsNoRun) {
  const TempFolder temp;
  temp.write("photos/cat.jpg", "x");
  EXPECT_NE(message_of(temp.path() / "photos", true).find("not a run folder"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(temp.path() / "photos/.lock"));
}

TEST(RunFolder, TwoRunsNeverShareOne) {
  const TempFolder temp;
  std::optional<RunFolder> first = RunFolder::open(temp.path() / "run", false);
  EXPECT_NE(message_of(temp.path() / "run", true).find("in use by process " + std::to_string(getpid())),
            std::string::npos);
  RunFolder moved = std::move(*first);
  first.reset();
  EXPECT_NE(message_of(temp.path() / "run", true).find("in use"), std::string::npos);
  moved = RunFolder::open(temp.path() / "other", false);
  EXPECT_NE(message_of(temp.path() / "other", true).find("in use"), std::string::npos);
}

TEST(RunFolder, AParentThatCannotBeWrittenIsNamedAndNothingIsLeft) {
  const TempFolder temp;
  const auto file = temp.write("file", "x");
  EXPECT_NE(message_of(file / "runs" / "first", false).find(file.string()), std::string::npos);
  EXPECT_EQ(message_of(file, false), file.string() + ": the run folder is not a folder");
  // A name that is too long fails after its parent was made.
  const auto too_long = temp.path() / "made" / std::string(300, 'n');
  EXPECT_NE(message_of(too_long, false).find("cannot create the run folder"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(temp.path() / "made"));
}

}  // namespace
}  // namespace unigrpo::monitor
