#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/error.h"
#include "reward/plugin/library.h"
#include "support/refusal.h"
#include "support/temp_folder.h"

namespace unigrpo::reward::plugin {
namespace {

namespace fs = std::filesystem;

const fs::path kHostile = UNIGRPO_TEST_PLUGINS "/hostile.so";

using testing::refusal;

std::string file_refusal(const fs::path& path) {
  return refusal([&] { check_plugin_file(path); });
}
std::string library_refusal(const fs::path& path, const std::string& settings = "{}") {
  return refusal([&] { Library(path, settings); });
}
bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(PluginFile, MustBeARegularFileThatNotEveryoneMayWrite) {
  const testing::TempFolder folder;
  const fs::path file = folder.write("judge.so", "x");
  fs::permissions(folder.path(), fs::perms::owner_all);
  fs::permissions(file, fs::perms::owner_all);
  EXPECT_EQ(file_refusal(file), "accepted");

  EXPECT_TRUE(holds(file_refusal(folder.path() / "none.so"), "none.so: No such file"))
      << file_refusal(folder.path() / "none.so");
  EXPECT_TRUE(holds(file_refusal(folder.path()), "no regular file"));
  const fs::path fifo = folder.path() / "fifo.so";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_TRUE(holds(file_refusal(fifo), "no regular file"));

  fs::permissions(file, fs::perms::others_write, fs::perm_options::add);
  EXPECT_TRUE(holds(file_refusal(file), "everyone may write to this file"));
  const fs::path link = folder.path() / "link.so";
  fs::create_symlink(file, link);
  EXPECT_TRUE(holds(file_refusal(link), "link.so: everyone may write"));
  fs::permissions(file, fs::perms::owner_all);
  EXPECT_EQ(file_refusal(link), "accepted");
  fs::permissions(folder.path(), fs::perms::all);
  EXPECT_TRUE(holds(file_refusal(file), "everyone may replace this file"));
  fs::permissions(folder.path(), fs::perms::all | fs::perms::sticky_bit);
  EXPECT_EQ(file_refusal(file), "accepted");
}

TEST(Library, RefusesWhatIsNoPluginOfThisVersion) {
  const testing::TempFolder folder;
  EXPECT_TRUE(holds(library_refusal(folder.write("text.so", "no library")), "text.so: cannot be loaded"));
  EXPECT_TRUE(holds(library_refusal("libm.so.6"), "libm.so.6: not a UniGRPO reward plugin"));
  EXPECT_EQ(library_refusal(UNIGRPO_TEST_PLUGINS "/hostile_abi.so"), UNIGRPO_TEST_PLUGINS
            "/hostile_abi.so: built for plugin ABI version 99, this program has 1; build it again "
            "with this program's headers");
}

TEST(Library, RefusesSettingsByName) {
  const std::string path = kHostile.string() + ": ";
  EXPECT_EQ(library_refusal(kHostile, R"({"batch_sise": 2})"), path + "unknown setting 'batch_sise'");
  EXPECT_EQ(library_refusal(kHostile, R"({"batch_size": "2"})"), path + "setting 'batch_size': expected a number");
  EXPECT_EQ(library_refusal(kHostile, R"({"do": "no batch"})"),
            path + "it declares batch_size = 0, expected 1 to 65536");
}

TEST(Library, ScoresWithoutAProcess) {
  Library library(kHostile, R"({"batch_size": 4, "do": "missing", "on": "b"})");
  EXPECT_EQ(library.description().name, "hostile");
  EXPECT_EQ(library.description().batch_size, 4);
  ASSERT_EQ(library.description().dimensions.size(), 1u);
  EXPECT_EQ(library.description().dimensions[0].name, "length");
  std::vector<SampleView> samples(2);
  samples[0].id = "a";
  samples[0].prompt = "12345";
  samples[1].id = "b";
  const Answer answer = library.score(samples);
  EXPECT_EQ(answer.error, "");
  ASSERT_EQ(answer.verdicts.size(), 2u);
  EXPECT_EQ(answer.verdicts[0].values[0], 5);
  EXPECT_FALSE(answer.verdicts[1].values[0]);
  EXPECT_EQ(answer.verdicts[1].reasons[0], "cannot tell");
}

}  // namespace
}  // namespace unigrpo::reward::plugin
