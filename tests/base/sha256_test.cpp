#include "base/sha256.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <csignal>
#include <string>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo {
namespace {

TEST(Sha256OfFile, IsThatOfItsBytesInBlocks) {
  const testing::TempFolder folder;
  EXPECT_EQ(sha256_of_file(folder.write("a", "abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_of_file(folder.write("empty", "")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const std::string large(3'000'001, 'x');  // of several blocks
  Sha256 digest;
  digest.update(large);
  EXPECT_EQ(sha256_of_file(folder.write("large", large)), digest.hex());
}

TEST(Sha256OfFile, RefusesWhatIsNoFileAndWaitsForNobody) {
  const testing::TempFolder folder;
  EXPECT_THROW(sha256_of_file(folder.path() / "none"), BadInput);
  EXPECT_THROW(sha256_of_file(folder.path()), BadInput);
  const auto fifo = folder.path() / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THROW(sha256_of_file(fifo), BadInput);
}

TEST(Sha256OfFile, IsCutShortByAStop) {
  const testing::TempFolder folder;
  std::atomic<int> come = SIGTERM, none = 0;
  const auto path = folder.write("a", "abc");
  try {
    sha256_of_file(path, StopToken(come));
    FAIL() << "not cut short";
  } catch (const Interrupted& stop) {
    EXPECT_STREQ(stop.what(), "SIGTERM: stopped before it was done");
  }
  EXPECT_EQ(sha256_of_file(path, StopToken(none)).size(), 64U);
}

}  // namespace
}  // namespace unigrpo
