#include "checkpoint/save.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "base/fault.h"
#include "base/log.h"
#include "checkpoint/snapshots.h"
#include "checkpoint/stateful.h"
#include "io/atomic_file.h"
#include "io/checkpoint_layout.h"
#include "io/step_folder.h"
#include "optim/adamw.h"
#include "optim/ema.h"
#include "optim/grad_clip.h"
#include "support/temp_folder.h"

namespace unigrpo::checkpoint {
namespace {

using testing::failure_of;
using testing::is_whole;
using testing::snapshot_of;

const std::vector<std::string> kPoints = {"save.open",    "save.write",    "save.fsync",  "save.rename",
                                          "save.dirsync", "save.manifest", "save.commit", "save.trash"};

class CheckpointStoreTest : public ::testing::Test {
 protected:
  CheckpointStoreTest() { log::set_quiet(true); }
  ~CheckpointStoreTest() override { fault::configure(""); }

  bool has_leftovers() const {
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(io::kTemporaryPrefix) || name.starts_with(io::kTrashPrefix)) return true;
    }
    return false;
  }
  void start_over() {
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      std::filesystem::remove_all(entry.path());
    }
    CheckpointStore(folder_.path(), {}).save(snapshot_of(1));
  }

  testing::TempFolder folder_{testing::fast_folder()};
};

TEST_F(CheckpointStoreTest, SavesAndFindsTheNewest) {
  CheckpointStore store(folder_.path() / "run" / "checkpoints", {});
  EXPECT_FALSE(store.newest());
  EXPECT_TRUE(store.save(snapshot_of(20)));
  EXPECT_TRUE(store.save(snapshot_of(40)));
  const auto found = store.newest();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 40);
  EXPECT_TRUE(is_whole(*found));
  EXPECT_EQ(found->counter("prompts"), 320);
  EXPECT_NE(failure_of([&] { found->counter("none"); }).find("state.json: counter 'none' is missing"),
            std::string::npos);
  EXPECT_NE(failure_of([&] { found->part("critic"); }).find("critic.safetensors"), std::string::npos);
}

TEST_F(CheckpointStoreTest, KeepsTheLastFew) {
  CheckpointStore store(folder_.path(), {.every = 1, .keep_last = 3});
  for (int64_t step = 1; step <= 6; ++step) store.save(snapshot_of(step));
  EXPECT_EQ(io::list_steps(folder_.path()), (std::vector<int64_t>{4, 5, 6}));
  EXPECT_FALSE(has_leftovers());
}

TEST_F(CheckpointStoreTest, LeavesACommittedStepAsItIs) {
  CheckpointStore store(folder_.path(), {});
  store.save(snapshot_of(5));
  Snapshot other = snapshot_of(6);
  other.step = 5;
  EXPECT_TRUE(store.save(other));
  EXPECT_TRUE(is_whole(*store.newest()));
}

TEST_F(CheckpointStoreTest, RemovesWhatADeadRunLeftAndLocksTheFolder) {
  folder_.write(".tmp-step_000003-1/policy.safetensors", "half");
  folder_.write(".trash-step_000001-1/policy.safetensors", "half");
  const CheckpointStore store(folder_.path(), {});
  EXPECT_FALSE(has_leftovers());
  EXPECT_NE(failure_of([&] {
              CheckpointStore second(folder_.path(), {});
            }).find("the folder of checkpoints is in use by process"),
            std::string::npos);
}

TEST_F(CheckpointStoreTest, AKillAtAnyPointLeavesTheOldCheckpointOrTheNew) {
  int num_kills = 0;
  for (const std::string& point : kPoints) {
    for (int hit = 1;; ++hit) {
      start_over();
      const pid_t child = fork();
      if (child == 0) {
        CheckpointStore store(folder_.path(), {.every = 1, .keep_last = 1});
        fault::configure(fmt::format("{}:{}=kill", point, hit));
        store.save(snapshot_of(2));
        _exit(0);
      }
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      const auto found = newest_checkpoint(folder_.path());
      ASSERT_TRUE(found) << point << ":" << hit;
      EXPECT_TRUE(is_whole(*found)) << point << ":" << hit;
      if (WIFEXITED(status)) {  // the save has fewer passes than that
        EXPECT_EQ(WEXITSTATUS(status), 0);
        EXPECT_EQ(found->step, 2);
        EXPECT_GT(hit, 1) << point << " is never passed";
        break;
      }
      ASSERT_EQ(WTERMSIG(status), SIGKILL);
      ++num_kills;
      EXPECT_EQ(found->step, point == "save.trash" || io::list_steps(folder_.path()).back() == 2 ? 2 : 1);
      CheckpointStore next(folder_.path(), {.every = 1, .keep_last = 1});
      next.save(snapshot_of(2));
      EXPECT_EQ(next.newest()->step, 2) << point << ":" << hit;
      EXPECT_FALSE(has_leftovers()) << point << ":" << hit;
    }
  }
  EXPECT_GE(num_kills, 25);  // five files with five points each
}

TEST_F(CheckpointStoreTest, AFullOrFailingDiskLeavesTheOldCheckpoint) {
  for (const std::string action : {"enospc", "eio"}) {
    for (const std::string& point : kPoints) {
      if (point == "save.trash") continue;  // passed after the commit
      for (int hit = 1;; ++hit) {
        start_over();
        CheckpointStore store(folder_.path(), {});
        fault::configure(fmt::format("{}:{}={}", point, hit, action));
        const std::string what = failure_of([&] { store.save(snapshot_of(2)); });
        fault::configure("");
        const auto found = store.newest();
        ASSERT_TRUE(found);
        EXPECT_TRUE(is_whole(*found));
        EXPECT_FALSE(has_leftovers()) << point << ":" << hit;
        if (what.empty()) {
          EXPECT_EQ(found->step, 2);
          EXPECT_GT(hit, 1) << point << " is never passed";
          break;
        }
        EXPECT_NE(what.find(folder_.path().string()), std::string::npos) << what;
        if (action == "enospc" && point != "save.dirsync") {
          EXPECT_EQ(found->step, 1);
          EXPECT_NE(what.find(" needed, "), std::string::npos) << what;
          EXPECT_NE(what.find(" free: "), std::string::npos) << what;
        }
        EXPECT_TRUE(store.save(snapshot_of(2)));
        EXPECT_EQ(store.newest()->step, 2);
      }
    }
  }
}

TEST_F(CheckpointStoreTest, GoesOnWithoutACheckpointWhereTheRecipeSaysSo) {
  CheckpointStore store(folder_.path(), {.every = 1, .keep_last = 2, .on_disk_full = OnDiskFull::proceed});
  store.save(snapshot_of(1));
  fault::configure("save.write:2=enospc");
  EXPECT_FALSE(store.save(snapshot_of(2)));
  EXPECT_EQ(store.newest()->step, 1);
  EXPECT_FALSE(has_leftovers());
  fault::configure("save.write:2=eio");  // not a full disk
  EXPECT_THROW(store.save(snapshot_of(2)), RuntimeFailure);
}

TEST_F(CheckpointStoreTest, AsksForTheSpaceBeforehand) {
  CheckpointStore store(folder_.path(), {});
  Snapshot huge = snapshot_of(2);
  huge.parts["policy"].push_back({"huge", at::empty({int64_t{1} << 50}, at::device(at::kMeta).dtype(at::kFloat))});
  const std::string what = failure_of([&] { store.save(huge); });
  EXPECT_NE(what.find("step_000002: no space for the checkpoint: "), std::string::npos) << what;
  EXPECT_THROW(store.save(huge), io::DiskFull);
}

TEST_F(CheckpointStoreTest, AResumedRunContinuesToTheBit) {
  struct Run {
    optim::NamedParameters parameters = {{"w", at::linspace(-1, 1, 60).reshape({20, 3}).set_requires_grad(true)},
                                         {"v", at::linspace(0, 1, 9).to(at::kBFloat16).set_requires_grad(true)}};
    optim::AdamW optimizer{{}, parameters};
    optim::Ema ema{{}, optimizer.masters()};
    optim::GradClip clip{{}};

    void step(int64_t index) {
      for (const NamedTensor& parameter : parameters) {
        at::Tensor handle = parameter.tensor;
        handle.mutable_grad() = (parameter.tensor.detach() * static_cast<double>(index + 1) + 0.25);
      }
      optimizer.step(1.0);
      ema.update(optimizer.masters());
    }
  };
  Run straight;
  for (int64_t i = 0; i < 3; ++i) straight.step(i);
  CheckpointStore store(folder_.path(), {});
  store.save(take_snapshot(3, "", std::vector<Stateful*>{&straight.optimizer, &straight.ema, &straight.clip}));
  Run resumed;
  for (size_t i = 0; i < 2; ++i) resumed.parameters[i].tensor.detach().copy_(straight.parameters[i].tensor);
  restore(std::vector<Stateful*>{&resumed.optimizer, &resumed.ema, &resumed.clip}, *store.newest());
  EXPECT_EQ(resumed.ema.num_updates(), 3);
  EXPECT_EQ(resumed.clip.skipped(), 0);
  for (int64_t i = 3; i < 6; ++i) {
    straight.step(i);
    resumed.step(i);
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(at::equal(straight.parameters[i].tensor.detach(), resumed.parameters[i].tensor.detach()));
    EXPECT_TRUE(at::equal(straight.ema.averages()[i].tensor, resumed.ema.averages()[i].tensor));
  }
}

}  // namespace
}  // namespace unigrpo::checkpoint
