#include "io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <iterator>

#include "base/error.h"
#include "base/fault.h"
#include "io/mapped_file.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

using ::unigrpo::testing::TempFolder;

/// Switches every fault off again.
struct Fault {
  explicit Fault(const char* specification) { fault::configure(specification); }
  ~Fault() { fault::configure(""); }
};

auto num_files(const TempFolder& folder) {
  return std::distance(std::filesystem::directory_iterator(folder.path()), {});
}

std::string failure(const std::filesystem::path& path) {
  try {
    write_file_atomic(path, "new");
  } catch (const RuntimeFailure& error) {
    return error.what();
  }
  return "written";
}

TEST(AtomicFile, WritesAndReplaces) {
  const TempFolder folder;
  const auto path = folder.path() / "a.txt";
  write_file_atomic(path, "one");
  write_file_atomic(path, std::string_view("\0two", 4));
  EXPECT_EQ(read_text_file(path), std::string("\0two", 4));
  write_file_atomic(path, "");
  EXPECT_EQ(read_text_file(path), "");
  EXPECT_EQ(num_files(folder), 1);
}

TEST(AtomicFile, AFailureLeavesTheOldFileAlone) {
  const TempFolder folder;
  const auto path = folder.write("a.txt", "old");
  for (const char* point : {"save.open", "save.write", "save.fsync", "save.rename"}) {
    for (const char* action : {"enospc", "eio"}) {
      const Fault fault(fmt::format("{}={}", point, action).c_str());
      const std::string message = failure(path);
      EXPECT_NE(message.find("a.txt: cannot "), std::string::npos) << message;
      EXPECT_EQ(message.find("free)") != std::string::npos, std::string(action) == "enospc");
      EXPECT_EQ(read_text_file(path), "old") << point;
      EXPECT_EQ(num_files(folder), 1) << point;
    }
  }
}

TEST(AtomicFile, AShortWriteIsCarriedOn) {
  const TempFolder folder;
  const Fault fault("save.write:1=short,save.write:2=short");
  write_file_atomic(folder.path() / "a.txt", "0123456789");
  EXPECT_EQ(read_text_file(folder.path() / "a.txt"), "0123456789");
}

TEST(AtomicFile, KilledBeforeTheRenameTheOldFileStands) {
  const TempFolder folder;
  const auto path = folder.write("a.txt", "old");
  for (const char* point : {"save.open", "save.write", "save.fsync", "save.rename"}) {
    EXPECT_EXIT(
        {
          fault::configure(fmt::format("{}=kill", point));
          write_file_atomic(path, "new");
        },
        ::testing::KilledBySignal(SIGKILL), "");
    EXPECT_EQ(read_text_file(path), "old") << point;
  }
  EXPECT_EXIT(
      {
        fault::configure("save.dirsync=kill");
        write_file_atomic(path, "new");
      },
      ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_EQ(read_text_file(path), "new");
}

TEST(AtomicFile, SaysWhyItCannotWrite) {
  const TempFolder folder;
  EXPECT_NE(failure(folder.path() / "none" / "a.txt").find("cannot create: No such file"), std::string::npos);
  std::filesystem::create_directories(folder.path() / "b" / "full");
  EXPECT_NE(failure(folder.path() / "b").find("cannot rename"), std::string::npos);
  EXPECT_EQ(num_files(folder), 1);
}

TEST(AtomicFile, WithoutCommitNothingAppears) {
  const TempFolder folder;
  {
    AtomicFile file(folder.path() / "a.txt");
    file.append("half");
  }
  EXPECT_EQ(num_files(folder), 0);
}

TEST(CopyFile, IsWholeOrLeavesTheOldOneAlone) {
  const TempFolder folder;
  const std::string bytes(3'000'001, 'x');
  const auto from = folder.write("from", bytes), empty = folder.write("empty", ""), to = folder.path() / "to";
  copy_file_atomic(from, to);
  EXPECT_EQ(read_text_file(to), bytes);
  EXPECT_THROW(copy_file_atomic(folder.path() / "none", to), BadInput);
  {
    const Fault fault("save.write=enospc");
    EXPECT_THROW(copy_file_atomic(from, to), DiskFull);
  }
  EXPECT_EQ(read_text_file(to), bytes);
  EXPECT_EQ(num_files(folder), 3);
  copy_file_atomic(empty, to);
  EXPECT_EQ(read_text_file(to), "");
}

TEST(ReadTextFile, RefusesWhatIsNoFile) {
  const TempFolder folder;
  const auto fifo = folder.path() / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THROW(read_text_file(fifo), BadInput);
  EXPECT_THROW(read_text_file("/dev/zero"), BadInput);
  EXPECT_THROW(read_text_file(folder.path()), BadInput);
  EXPECT_THROW(read_text_file(folder.path() / "none"), BadInput);
  EXPECT_THROW(read_text_file(folder.write("big", "12345"), 4), BadInput);
}

TEST(MappedFile, ShowsTheBytes) {
  const TempFolder folder;
  const MappedFile file(folder.write("a", "abc"));
  EXPECT_EQ(file.bytes().size(), 3U);
  EXPECT_TRUE(MappedFile(folder.write("empty", "")).bytes().empty());
}

}  // namespace
}  // namespace unigrpo::io
