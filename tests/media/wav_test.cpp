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
