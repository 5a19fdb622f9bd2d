#include "io/folder_lock.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "base/error.h"
#include "base/fault.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

using testing::TempFolder;

TEST(FolderLock, HoldsUntilItIsGone) {
  const TempFolder folder;
  std::optional<FolderLock> first(std::in_place, folder.path(), "folder");
  EXPECT_THROW(FolderLock(folder.path(), "folder"), BadInput);
  first.reset();
  EXPECT_NO_THROW(FolderLock(folder.path(), "folder"));
}

// Network file systems without locks, where flock fails otherwise than by being held.
TEST(FolderLock, WhereThereAreNoLocksTheFolderIsUsedWithAWarning) {
  const TempFolder folder;
  fault::configure("lock.flock=eio");
  ::testing::internal::CaptureStderr();
  EXPECT_NO_THROW(FolderLock(folder.path(), "folder"));
  const std::string said = ::testing::internal::GetCapturedStderr();
  fault::configure("");
  EXPECT_NE(said.find("this file system keeps no locks"), std::string::npos) << said;
}

}  // namespace
}  // namespace unigrpo::io
