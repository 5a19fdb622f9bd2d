#include "media/write_mp4.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/fault.h"
#include "io/atomic_file.h"
#include "media/clips.h"
#include "media/read_clip.h"
#include "support/temp_folder.h"

namespace unigrpo::media {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json ffprobe(const fs::path& path) {
  return json::parse(output_of("ffprobe -v error -count_frames -show_format -show_streams -of json " + path.string()));
}

TEST(WriteMp4, IsReadByFfprobeAsH264AndAac) {
  const testing::TempFolder folder;
  const fs::path path = folder.path() / "a.mp4";
  const WrittenMp4 written = write_mp4(path, moving_disc({}), {.title = "a bell, é", .comment = "seed 7"});
  EXPECT_EQ(written.width, 48);
  EXPECT_TRUE(written.notes.empty());
  const json found = ffprobe(path);
  ASSERT_EQ(found["streams"].size(), 2U);
  const json &video = found["streams"][0], &audio = found["streams"][1];
  EXPECT_EQ(video["codec_name"], "h264");
  EXPECT_EQ(video["profile"], "High");
  EXPECT_EQ(video["pix_fmt"], "yuv420p");
  EXPECT_EQ(video["nb_read_frames"], "17");
  EXPECT_EQ(video["avg_frame_rate"], "16/1");
  EXPECT_EQ(video["start_time"], "0.000000");
  EXPECT_EQ(video["duration"], "1.062500");
  EXPECT_EQ(video["color_space"], "bt709");
  EXPECT_EQ(video["color_range"], "tv");
  EXPECT_EQ(video["color_primaries"], "bt709");
  EXPECT_EQ(audio["codec_name"], "aac");
  EXPECT_EQ(audio["sample_rate"], "48000");
  EXPECT_EQ(audio["channels"], 2);
  EXPECT_EQ(audio["start_time"], "0.000000");
  EXPECT_EQ(audio["duration"], "1.062500");
  EXPECT_EQ(found["format"]["start_time"], "0.000000");
  EXPECT_NEAR(std::stod(found["format"]["duration"].get<std::string>()), 1.0625,
              1e-3);  // the header counts milliseconds
  EXPECT_EQ(found["format"]["tags"]["title"], "a bell, é");
  EXPECT_EQ(found["format"]["tags"]["comment"], "seed 7");
}

TEST(WriteMp4, HasItsIndexInFrontAndTheSameBytesEachTime) {
  const testing::TempFolder folder;
  write_mp4(folder.path() / "a.mp4", moving_disc({}));
  const std::string bytes = io::read_text_file(folder.path() / "a.mp4");
  EXPECT_LT(bytes.find("moov"), bytes.find("mdat"));
  for (uint64_t i = 0; i < 5; ++i) {  // whatever the process did in between
    write_mp4(folder.path() / "other.mp4", moving_disc({.count = 5 + static_cast<int64_t>(7 * i), .height = 64}, i));
    decode_file(folder.path() / "other.mp4", {.min_seconds = 0});
    write_mp4(folder.path() / "b.mp4", moving_disc({}));
    EXPECT_EQ(bytes, io::read_text_file(folder.path() / "b.mp4")) << i;
  }
}

TEST(WriteMp4, LeavesNothingWhereItFails) {
  const testing::TempFolder folder;
  const fs::path path = folder.path() / "a.mp4";
  fault::configure("save.write=enospc");
  EXPECT_THROW(write_mp4(path, moving_disc({})), RuntimeFailure);
  fault::configure("");
  Clip clip = moving_disc({});
  clip.sound.samples[100] = NAN;
  EXPECT_THROW(write_mp4(path, clip), RuntimeFailure);
  clip = moving_disc({});
  clip.fps = {0, 1};
  EXPECT_THROW(write_mp4(path, clip), RuntimeFailure);
  clip = moving_disc({});
  clip.frames.pixels.pop_back();
  EXPECT_THROW(write_mp4(path, clip), RuntimeFailure);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(WriteMp4, PadsOddSizesAndSaysSo) {
  const testing::TempFolder folder;
  const fs::path path = folder.path() / "a.mp4";
  const Clip clip = moving_disc({.height = 17, .width = 33});
  const WrittenMp4 written = write_mp4(path, clip);
  ASSERT_EQ(written.notes.size(), 1U);
  EXPECT_EQ(written.notes[0], "padded from 33 x 17 to 34 x 18");
  const Frames read = decode_file(path).clip.frames;
  EXPECT_EQ(read.width, 34);
  EXPECT_EQ(read.height, 18);
  for (int y = 0; y < 17; ++y) {
    for (int c = 0; c < 3; ++c) {
      const uint8_t* row = read.frame(5) + size_t{3} * y * 34;
      EXPECT_NEAR(row[3 * 33 + c], row[3 * 32 + c], 12) << "the last column stands twice";
    }
  }
}

TEST(WriteMp4, FitsTheSoundToThePictures) {
  const testing::TempFolder folder;
  const fs::path path = folder.path() / "a.mp4";
  Clip clip = moving_disc({});
  clip.sound = click_at(0.5, 2.0, 8000);
  const WrittenMp4 written = write_mp4(path, clip);
  ASSERT_EQ(written.notes.size(), 1U);
  EXPECT_EQ(written.notes[0], "sound cut from 2.000 s to the pictures' 1.062 s");
  EXPECT_EQ(decode_file(path).clip.sound.length(), 51'000);
  clip.sound = click_at(0.5, 0.6, 8000);
  EXPECT_TRUE(write_mp4(path, clip).notes.empty());
  EXPECT_EQ(decode_file(path).clip.sound.length(), 51'000);
  clip.sound = {};
  write_mp4(path, clip);
  EXPECT_FALSE(decode_file(path).info.audio);
}

TEST(WriteMp4, FallsBackToMpeg4AndSaysSo) {
  const testing::TempFolder folder;
  const fs::path path = folder.path() / "a.mp4";
  const WrittenMp4 written = write_mp4(path, moving_disc({}), {.video_encoder = "no_such_encoder"});
  ASSERT_EQ(written.notes.size(), 1U);
  EXPECT_EQ(written.notes[0], "libav has no no_such_encoder here: MPEG-4 instead of H.264");
  const ReadResult read = decode_file(path);
  EXPECT_EQ(read.info.video->codec, "mpeg4");
  EXPECT_EQ(read.clip.frames.count, 17);
  EXPECT_GT(psnr(moving_disc({}).frames, read.clip.frames), 30);
}

// Acceptance A11: a click within 3 ms, by our reader and by ffmpeg, in 100 of 100 clips.
TEST(WriteMp4, KeepsAClickWhereItIs) {
  const testing::TempFolder folder;
  for (int i = 0; i < 100; ++i) {
    const fs::path path = folder.path() / "a.mp4", wav = folder.path() / "a.wav";
    RandomStream stream({.seed = 5, .sample = static_cast<uint64_t>(i)});
    const int rate = std::vector<int>{8000, 16'000, 22'050, 44'100, 48'000}[stream.below(5)];
    Clip clip = moving_disc({.height = 16, .width = 16});
    const double time_s = i == 0 ? 0.5 : stream.uniform(0.02, 1.0);
    clip.sound = click_at(time_s, 1.0625, rate);
    write_mp4(path, clip);
    const double told_s = std::round(time_s * rate) / rate;
    EXPECT_NEAR(click_time(decode_file(path).clip.sound), told_s, 3e-3) << "clip " << i << ", " << rate << " Hz";
    if (i % 10 != 0) continue;  // a process of its own each
    ASSERT_TRUE(ffmpeg(fmt::format("-i {} -c:a pcm_s16le {}", path.string(), wav.string())));
    EXPECT_NEAR(click_time(decode_file(wav, {.video = Want::none}).clip.sound), told_s, 3e-3) << "clip " << i;
  }
}

}  // namespace
}  // namespace unigrpo::media
