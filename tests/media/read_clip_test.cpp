#include "media/read_clip.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "io/atomic_file.h"
#include "media/clips.h"
#include "media/conversation.h"
#include "media/write_mp4.h"
#include "support/temp_folder.h"

namespace unigrpo::media {
namespace {

namespace fs = std::filesystem;

/// What the worker acts out in place of a decoder's fault.
class Fault {
 public:
  explicit Fault(const char* what) { setenv("UNIGRPO_FAULT", what, 1); }
  ~Fault() { unsetenv("UNIGRPO_FAULT"); }
  Fault(const Fault&) = delete;
  Fault& operator=(const Fault&) = delete;
};

class ReadClip : public ::testing::Test {
 protected:
  void SetUp() override { write_mp4(path_, moving_disc({.count = 32}), {.title = "a disc"}); }
  std::string refused(const ReadLimits& limits = {}, const ReadOptions& options = {}) const {
    const std::string text = refusal([&] { read_clip(path_, options, limits); });
    return text.starts_with(path_.string()) ? text.substr(folder_.path().string().size() + 1) : text;
  }
  testing::TempFolder folder_;
  fs::path path_ = folder_.path() / "a.mp4";
};

TEST_F(ReadClip, GivesWhatDecodingHereGives) {
  const ReadOptions options = {
      .fps = {10, 1}, .sample_rate = 16'000, .max_side = 40, .start_s = 0.25, .max_seconds = 1};
  const ReadResult here = decode_file(path_, options), there = read_clip(path_, options);
  EXPECT_EQ(there.clip.frames, here.clip.frames);
  EXPECT_EQ(there.clip.fps, here.clip.fps);
  EXPECT_EQ(there.clip.sound, here.clip.sound);
  EXPECT_EQ(there.notes, here.notes);
  EXPECT_EQ(there.info.tags, here.info.tags);
  EXPECT_EQ(there.info.tags.at("title"), "a disc");
  EXPECT_EQ(there.info.container, "mp4");
  EXPECT_EQ(there.info.seconds, 2);
  EXPECT_EQ(there.info.video->codec, "h264");
  EXPECT_EQ(there.info.video->num_bytes, here.info.video->num_bytes);
  EXPECT_EQ(there.info.audio->layout, here.info.audio->layout);
  EXPECT_EQ(there.clip.frames.count, 10);
  EXPECT_EQ(there.clip.frames.width, 40);
  EXPECT_EQ(there.clip.sound.length(), 16'000);
}

TEST_F(ReadClip, ADecodersEndIsALineThatNamesTheFile) {
  {
    const Fault fault("media.decode=segv");
    EXPECT_TRUE(refused().starts_with("a.mp4: the process that read it ")) << refused();
#ifndef __SANITIZE_ADDRESS__  // which reports it and exits
    EXPECT_EQ(refused(), "a.mp4: the process that read it was killed by SIGSEGV");
#endif
  }
  {
    const Fault fault("media.decode=kill");
    EXPECT_EQ(refused(), "a.mp4: the process that read it was killed by SIGKILL");
  }
  {
    const Fault fault("media.decode=delay:60000");
    EXPECT_EQ(refused({.wall_s = 0.5}), "a.mp4: reading it took longer than 0.5 s and was stopped");
  }
  EXPECT_EQ(refused(), "accepted");
}

#ifndef __SANITIZE_ADDRESS__  // its own memory is beyond every such bound
TEST_F(ReadClip, MemoryAndProcessorTimeAreBounded) {
  EXPECT_EQ(refused({.memory_bytes = 4 << 20}), "a.mp4: needs more than 4.0 MiB of memory");
  ASSERT_TRUE(ffmpeg("-f lavfi -i testsrc2=size=1920x1080:rate=25:duration=3 -c:v libx264 -preset ultrafast " +
                     (folder_.path() / "b.mp4").string()));
  path_ = folder_.path() / "b.mp4";
  EXPECT_EQ(refused({.cpu_s = 1}), "b.mp4: reading it took more than 1 s of processor time and was stopped");
}
#endif

TEST_F(ReadClip, AnAnswerThatDoesNotFitIsRefused) {
  SharedMemory memory;
  ReadResult result = decode_file(path_);
  write_response(memory, {.result = result, .refusal = "", .failure = ""});
  EXPECT_TRUE(read_response(memory.bytes()).result);
  const auto claim = [&](auto change) {
    ReadResult changed = result;
    change(changed);
    SharedMemory other;
    write_response(other, {.result = changed, .refusal = "", .failure = ""});
    return refusal([&] { read_response(other.bytes()); });
  };
  const std::string unfit = "the answer's pictures or sound do not fit what it says of them";
  EXPECT_EQ(claim([](ReadResult& r) { r.clip.frames.count += 1; }), unfit);
  EXPECT_EQ(claim([](ReadResult& r) { r.clip.frames.count = -1; }), unfit);
  EXPECT_EQ(claim([](ReadResult& r) { r.clip.frames.height = 1 << 20; }), unfit);
  EXPECT_EQ(claim([](ReadResult& r) { r.clip.sound.channels = 0x7fffffff; }), unfit);
  EXPECT_EQ(claim([](ReadResult& r) { r.clip.fps.den = 0; }), "the answer holds no rate");
  const uint64_t beyond = uint64_t{1} << 60;
  std::memcpy(memory.bytes().data(), &beyond, sizeof beyond);
  EXPECT_EQ(refusal([&] { read_response(memory.bytes()); }), "the answer is too short");
  EXPECT_EQ(refusal([&] { read_response({}); }), "the answer is too short");
}

TEST_F(ReadClip, WhatIsNoRegularFileIsNeverWaitedFor) {
  path_ = folder_.path();
  EXPECT_NE(refused(), "accepted");
}

}  // namespace
}  // namespace unigrpo::media
