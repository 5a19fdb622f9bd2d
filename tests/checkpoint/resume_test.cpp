#include "checkpoint/resume.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/log.h"
#include "checkpoint/snapshots.h"
#include "io/checkpoint_layout.h"
#include "io/step_folder.h"
#include "support/temp_folder.h"

namespace unigrpo::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::failure_of;
using testing::is_whole;
using testing::read_file;
using testing::snapshot_of;
using testing::write_file;

class Resume : public ::testing::Test {
 protected:
  Resume() {
    log::set_quiet(true);
    CheckpointStore store(root_.path(), {});
    store.save(snapshot_of(20));
    store.save(snapshot_of(40));
  }
  std::string failure() const {
    return failure_of([&] { open_checkpoint(newest_); });
  }

  testing::TempFolder root_{testing::fast_folder()};
  fs::path older_ = root_.path() / "step_000020";
  fs::path newest_ = root_.path() / "step_000040";
};

TEST_F(Resume, FindsAFlippedBitAnywhereAndNamesTheFile) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(newest_)) files.push_back(entry.path());
  ASSERT_EQ(files.size(), 5);
  testing::flip_bits(files, 50, /*seed=*/1, [&](const fs::path& file, uint64_t place, int /*trial*/) {
    const std::string what = failure();
    EXPECT_TRUE(what.starts_with(file.string())) << file << " byte " << place << ": " << what;
    const auto found = newest_checkpoint(root_.path());
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, 20);
    EXPECT_TRUE(is_whole(*found));
  });
  EXPECT_EQ(newest_checkpoint(root_.path())->step, 40);
}

TEST_F(Resume, FindsTruncatedMissingSwappedMixedAndForeignFiles) {
  const fs::path policy = newest_ / "policy.safetensors";
  const fs::path ema = newest_ / "ema.safetensors";
  const std::string original = read_file(policy);
  write_file(policy, original.substr(0, original.size() - 1));
  EXPECT_NE(failure().find("policy.safetensors: has "), std::string::npos);
  fs::remove(policy);
  EXPECT_NE(failure().find("policy.safetensors"), std::string::npos);
  write_file(policy, read_file(older_ / "policy.safetensors"));
  EXPECT_NE(failure().find("policy.safetensors: SHA-256 is "), std::string::npos);
  write_file(policy, original);
  EXPECT_EQ(failure(), "");
  fs::rename(policy, newest_ / "x");
  fs::rename(ema, policy);
  fs::rename(newest_ / "x", ema);
  EXPECT_NE(failure().find(".safetensors: "), std::string::npos);
  fs::rename(policy, newest_ / "x");
  fs::rename(ema, policy);
  fs::rename(newest_ / "x", ema);
  write_file(newest_ / "notes.txt", "x");
  EXPECT_NE(failure().find("notes.txt: not a file of this checkpoint"), std::string::npos);
  fs::remove(newest_ / "notes.txt");
  EXPECT_EQ(failure(), "");
  fs::rename(newest_, root_.path() / "step_000060");
  EXPECT_NE(failure_of([&] { open_checkpoint(root_.path() / "step_000060"); }).find("manifest.json: is of step 40"),
            std::string::npos);
}

TEST_F(Resume, PutsADamagedCheckpointAsideAndTakesTheOneBefore) {
  write_file(newest_ / "ema.safetensors", "");
  CheckpointStore store(root_.path(), {});
  EXPECT_EQ(store.newest()->step, 20);
  EXPECT_EQ(io::list_steps(root_.path()), std::vector<int64_t>{20});
  EXPECT_TRUE(store.save(snapshot_of(40)));  // the step can be reached again
  EXPECT_TRUE(is_whole(*store.newest()));
}

TEST_F(Resume, RefusesToStartOverWhereNoCheckpointVerifies) {
  write_file(newest_ / "ema.safetensors", "");
  write_file(older_ / "manifest.json", "{}");
  const std::string what = failure_of([&] { newest_checkpoint(root_.path()); });
  EXPECT_NE(what.find("none of 2 checkpoints verifies"), std::string::npos) << what;
  EXPECT_NE(what.find("ema.safetensors"), std::string::npos) << what;
  EXPECT_EQ(io::list_steps(root_.path()).size(), 2);
}

TEST_F(Resume, IgnoresWhatIsNotACommittedCheckpoint) {
  root_.write(".tmp-step_000060-1/policy.safetensors", "half");
  root_.write(".trash-step_000060-1/policy.safetensors", "half");
  root_.write("step_60/policy.safetensors", "half");
  EXPECT_EQ(newest_checkpoint(root_.path())->step, 40);
  EXPECT_FALSE(newest_checkpoint(root_.path() / "absent"));
}

TEST(AssignConverted, EachValueTakesTheTypeOfItsOwnParameterWhateverTheOrder) {
  const optim::NamedParameters parameters = {
      {"a", at::zeros({2}, at::kFloat)}, {"b", at::zeros({2}, at::kBFloat16)}, {"c", at::zeros({2}, at::kDouble)}};
  const auto value = [](float number) { return at::full({2}, number, at::kFloat); };
  assign_converted(parameters, {{"c", value(1.0F / 3)}, {"a", value(1.0F / 3)}, {"b", value(1.0F / 3)}}, "here");
  EXPECT_TRUE(at::equal(parameters[0].tensor, value(1.0F / 3)));
  EXPECT_TRUE(at::equal(parameters[1].tensor, value(1.0F / 3).to(at::kBFloat16)));  // 0.333984375
  EXPECT_TRUE(at::equal(parameters[2].tensor, value(1.0F / 3).to(at::kDouble)));
  EXPECT_EQ(testing::failure_of([&] { assign_converted(parameters, {{"a", value(1)}}, "here"); }),
            "here: tensor 'b' is missing");
}

}  // namespace
}  // namespace unigrpo::checkpoint
