#include "media/wav.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "io/atomic_file.h"
#include "media/read_clip.h"
#include "support/temp_folder.h"

namespace unigrpo::media {
namespace {

TEST(WriteWav, GivesSixteenBitSamplesThatAreReadBack) {
  const testing::TempFolder folder;
  const auto path = folder.path() / "a.wav";
  const Sound sound = {.channels = 2, .rate = 8000, .samples = std::vector<float>(2 * 5000, 0.25F)};
  write_wav(path, sound);
  EXPECT_EQ(io::read_text_file(path).size(), 44U + 4 * 5000);
  const ReadResult read = read_clip(path, {.video = Want::none, .audio = Want::required});
  EXPECT_EQ(read.info.container, "wav");
  EXPECT_EQ(read.clip.sound.channels, 2);
  EXPECT_EQ(read.clip.sound.rate, 8000);
  ASSERT_EQ(read.clip.sound.length(), 5000);
  for (const float sample : read.clip.sound.samples)
    ASSERT_NEAR(sample, 0.25F, 1.0 / 32768);  // half a step, and 32767/32768
  EXPECT_EQ(read.notes, std::vector<std::string>{});
}

TEST(ReadWav, GivesBackWhatWasWrittenAndNothingElse) {
  const testing::TempFolder folder;
  const auto path = folder.path() / "a.wav";
  const Sound sound = {.channels = 2, .rate = 8000, .samples = {0, 0.5F, -1, 0.25F, 1, -0.125F}};
  write_wav(path, sound);
  const Sound read = read_wav(path);
  EXPECT_EQ(read.channels, 2);
  EXPECT_EQ(read.rate, 8000);
  ASSERT_EQ(read.samples.size(), sound.samples.size());
  for (size_t i = 0; i < read.samples.size(); ++i) EXPECT_NEAR(read.samples[i], sound.samples[i], 1.0 / 32767) << i;
  const std::string bytes = io::read_text_file(path);
  std::string other_rate = bytes;
  other_rate[24] = 1;  // the bytes a second no longer fit
  for (const std::string& bad : {std::string(), bytes.substr(0, 44), bytes.substr(0, bytes.size() - 1), bytes + "ab",
                                 "RIFX" + bytes.substr(4), other_rate}) {
    io::write_file_atomic(path, bad);
    EXPECT_THROW(read_wav(path), BadInput);
  }
}

TEST(WriteWav, LimitsSamplesAndRefusesWhatIsNoNumber) {
  const testing::TempFolder folder;
  const auto path = folder.path() / "a.wav";
  write_wav(path, {.channels = 1, .rate = 8000, .samples = {2.0F, -2.0F}});
  const std::string bytes = io::read_text_file(path);
  EXPECT_EQ(bytes.substr(44), std::string("\xff\x7f\x01\x80", 4));
  const auto missing = folder.path() / "b.wav";
  EXPECT_THROW(write_wav(missing, {.channels = 1, .rate = 8000, .samples = {NAN}}), RuntimeFailure);
  EXPECT_THROW(write_wav(missing, {.channels = 0, .rate = 8000, .samples = {}}), RuntimeFailure);
  EXPECT_FALSE(std::filesystem::exists(missing));
}

}  // namespace
}  // namespace unigrpo::media
