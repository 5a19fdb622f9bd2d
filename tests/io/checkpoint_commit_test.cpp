#include "io/checkpoint_commit.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <future>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "io/step_folder.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

/// What a save hands to its thread.
struct Job {
  FinishedFiles finished;
  std::vector<PartFile> files;
};

Job job_of(const std::filesystem::path& folder, int64_t step, const std::vector<std::byte>& memory) {
  Job job{.finished = {.folder = folder,
                       .temporary = folder / unique_name(kTemporaryPrefix, step_name(step)),
                       .state = "{}\n",
                       .manifest = {.step = step},
                       .keep_last = 2},
          .files = {}};
  std::filesystem::create_directory(job.finished.temporary);
  for (const char* part : {"optimizer", "policy"}) {
    TensorView view{
        .name = "w", .dtype = DType::u8, .shape = {static_cast<int64_t>(memory.size())}, .bytes = std::span(memory)};
    job.files.push_back({.name = part_file_name(part), .tensors = {view}});
  }
  return job;
}

void write(Job& job) {
  job.finished.manifest.files = write_part_files(job.finished.temporary, job.files);
  commit_checkpoint(job.finished);
}

/// The thread's side of a save, run under ThreadSanitizer too: what it reads was copied before it began.
TEST(CheckpointCommit, AThreadWritesWhileTheLoopGoesOn) {
  log::set_quiet(true);
  const testing::TempFolder folder;
  std::vector<std::byte> weights(1 << 20), copy;
  for (int64_t step = 1; step <= 4; ++step) {
    std::memset(weights.data(), static_cast<int>(step), weights.size());
    copy = weights;
    Job job = job_of(folder.path(), step, copy);
    std::future<void> writing = std::async(std::launch::async, [&job] { write(job); });
    do {
      std::memset(weights.data(), 0, weights.size());  // the next step
    } while (writing.wait_for(std::chrono::seconds(0)) != std::future_status::ready);
    writing.get();
    const std::filesystem::path committed = folder.path() / step_name(step);
    verify_files(committed, read_manifest(committed / kManifestFile));
    const SafetensorsFile policy(committed / "policy.safetensors");
    EXPECT_EQ(policy.find("w")->bytes.back(), static_cast<std::byte>(step));
  }
  EXPECT_EQ(list_steps(folder.path()), (std::vector<int64_t>{3, 4}));
}

TEST(CheckpointCommit, WhatAThreadCannotWriteIsThrownWhereItIsWaitedFor) {
  log::set_quiet(true);
  const testing::TempFolder folder;
  const std::vector<std::byte> memory(1000);
  for (const std::string point :
       {"save.part:2=enospc", "save.fsync:1=eio", "save.manifest:1=eio", "save.commit:1=enospc"}) {
    fault::configure(point);
    Job job = job_of(folder.path(), 7, memory);
    std::future<void> writing = std::async(std::launch::async, [&job] { write(job); });
    EXPECT_THROW(writing.get(), RuntimeFailure) << point;
    fault::configure("");
    EXPECT_TRUE(list_steps(folder.path()).empty());
  }
}

TEST(CheckpointCommit, AFileThatIsNotWhatWasWrittenIsNotCommitted) {
  const testing::TempFolder folder;
  const std::vector<std::byte> memory(1000);
  Job job = job_of(folder.path(), 7, memory);
  job.finished.manifest.files = write_part_files(job.finished.temporary, job.files);
  std::filesystem::resize_file(job.finished.temporary / "policy.safetensors", 10);
  try {
    commit_checkpoint(job.finished);
    ADD_FAILURE();
  } catch (const RuntimeFailure& error) {
    EXPECT_NE(std::string(error.what()).find("policy.safetensors: has 10 bytes here, "), std::string::npos);
  }
  EXPECT_TRUE(list_steps(folder.path()).empty());
}

}  // namespace
}  // namespace unigrpo::io
