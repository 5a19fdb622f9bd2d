// The table of docs/FORMATS.md, "Clips": what files may be, and what is said of them.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "io/atomic_file.h"
#include "media/clips.h"
#include "media/read_clip.h"
#include "media/wav.h"
#include "media/write_mp4.h"
#include "support/temp_folder.h"

namespace unigrpo::media {
namespace {

namespace fs = std::filesystem;
using Notes = std::vector<std::string>;

class Files : public ::testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  fs::path write(const std::string& name, const std::string& bytes) const { return folder_.write(name, bytes); }
  /// A clip of so many seconds at 16 frames a second, written by us.
  fs::path clip(const std::string& name, int64_t count) const {
    write_mp4(path(name), moving_disc({.count = count}));
    return path(name);
  }
  /// A file that ffmpeg makes.
  fs::path made(const std::string& name, const std::string& arguments) const {
    EXPECT_TRUE(ffmpeg(arguments + " " + path(name).string())) << arguments;
    return path(name);
  }
  static std::string refused(const fs::path& file, const ReadOptions& options = {}) {
    return refusal([&] { decode_file(file, options); });
  }

 private:
  testing::TempFolder folder_;
};

constexpr const char* kPicture = "-f lavfi -i testsrc=size=64x48:rate=25:duration=2";
constexpr const char* kTone = "-f lavfi -i sine=frequency=440:sample_rate=44100:duration=2";

TEST_F(Files, AFileThatWasCutGivesItsWholePart) {
  const std::string bytes = io::read_text_file(clip("a.mp4", 96));
  const fs::path cut = write("cut.mp4", bytes.substr(0, bytes.size() * 6 / 10));
  const ReadResult read = decode_file(cut);
  ASSERT_EQ(read.notes.size(), 1U);
  const double told_s = read.info.seconds;
  EXPECT_EQ(read.notes[0], fmt::format("truncated at {:.1f} s", told_s));
  EXPECT_GT(told_s, 1);
  EXPECT_LT(told_s, 6);
  EXPECT_NEAR(read.clip.frames_s(), told_s, 1.0 / 16);
  EXPECT_NEAR(read.clip.sound_s(), told_s, 1.0 / 16);
  EXPECT_GT(psnr(moving_disc({.count = 96}).frames, read.clip.frames), 34);
  // Cut earlier: too little is left.
  const fs::path shorter =
      write("shorter.mp4", bytes.substr(0, bytes.find("mdat") + (bytes.size() - bytes.find("mdat")) / 20));
  EXPECT_TRUE(refused(shorter).starts_with("shorter.mp4: truncated at 0.")) << refused(shorter);
  EXPECT_TRUE(refused(shorter).ends_with(" s, expected at least 1 s")) << refused(shorter);
}

TEST_F(Files, OtherContainersThatWereCut) {
  for (const std::string name : {"a.webm", "a.mkv", "a.wav", "fragments.mp4"}) {
    SCOPED_TRACE(name);
    const bool wave = name == "a.wav";
    const std::string codecs = name == "a.webm" ? "-c:v libvpx -b:v 200k -c:a libopus" : "-c:v libx264 -g 10 -c:a aac";
    const fs::path whole =
        wave ? made(name, "-f lavfi -i sine=duration=4")
             : made(name, "-f lavfi -i testsrc=size=64x48:rate=25:duration=4 -f lavfi -i sine=duration=4 " + codecs +
                              (name == "fragments.mp4" ? " -movflags frag_keyframe+empty_moov+delay_moov" : ""));
    const ReadOptions options = {.video = wave ? Want::none : Want::required};
    EXPECT_EQ(decode_file(whole, options).notes, Notes{});
    const std::string bytes = io::read_text_file(whole);
    const ReadResult read = decode_file(write("cut-" + name, bytes.substr(0, bytes.size() * 6 / 10)), options);
    ASSERT_EQ(read.notes.size(), 1U);
    EXPECT_EQ(read.notes[0], fmt::format("truncated at {:.1f} s", read.info.seconds));
    EXPECT_GT(read.info.seconds, 1);
    EXPECT_LT(read.info.seconds, 3.9);
  }
}

TEST_F(Files, WhatIsNoMediaFileIsSaidToBeNone) {
  EXPECT_EQ(refused(write("empty.mp4", "")), "empty.mp4: no streams: the file is empty");
  RandomStream stream({.seed = 3});
  std::string noise;
  for (int i = 0; i < 100'000; ++i) noise += static_cast<char>(stream.below(256));
  EXPECT_EQ(refused(write("noise.mp4", noise)), "noise.mp4: no streams: this is neither MP4, WebM nor WAV");
  EXPECT_EQ(refused(write("text.mp4", "Dear reader,\nthis is a letter.\n")),
            "text.mp4: no streams: this is neither MP4, WebM nor WAV");
  EXPECT_EQ(refused(write("zeros.mp4", std::string(5000, '\0'))),
            "zeros.mp4: no streams: this is neither MP4, WebM nor WAV");
  // The index stands last and was cut off.
  const fs::path last = made("last.mp4", std::string(kPicture) + " -c:v libx264");
  const std::string bytes = io::read_text_file(last);
  ASSERT_GT(bytes.find("moov"), bytes.find("mdat"));
  EXPECT_EQ(refused(write("cut.mp4", bytes.substr(0, bytes.size() / 2))), "cut.mp4: no streams: moov atom not found");
  EXPECT_TRUE(
      refusal([&] { read_clip(path("none.mp4")); }).ends_with("none.mp4: cannot open: No such file or directory"))
      << refusal([&] { read_clip(path("none.mp4")); });
}

TEST_F(Files, PlaylistsAndReferencesToOtherFilesAreRefused) {
  const fs::path target = clip("a.mp4", 17);
  EXPECT_EQ(refused(write("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://" + target.string() +
                                          "\n#EXT-X-ENDLIST\n")),
            "list.mp4: no streams that are read: this looks like 'hls', expected MP4, WebM or WAV");
  EXPECT_EQ(refused(write("concat.mp4", "ffconcat version 1.0\nfile '" + target.string() + "'\n")),
            "concat.mp4: no streams that are read: this looks like 'concat', expected MP4, WebM or WAV");
  // A track whose data lie in another file: the reference "url " with text instead of "in this file".
  std::string bytes = io::read_text_file(target);
  const size_t at = bytes.find("url ");
  ASSERT_NE(at, std::string::npos);
  std::memcpy(&bytes[at], "alis", 4);
  EXPECT_NE(refused(write("alias.mp4", bytes)),
            "");  // too short an alias: read as the file itself, or refused; never elsewhere
}

TEST_F(Files, SoundMayBeAskedFor) {
  const fs::path mute = made("mute.mp4", std::string(kPicture) + " -c:v libx264");
  EXPECT_EQ(refused(mute), "accepted");
  EXPECT_EQ(refused(mute, {.audio = Want::required}), "mute.mp4: no audio");
  const fs::path tone = made("tone.mp4", std::string(kTone) + " -c:a aac");
  EXPECT_EQ(refused(tone), "tone.mp4: no video");
  EXPECT_EQ(refused(tone, {.video = Want::optional}), "accepted");
}

TEST_F(Files, ACoverIsNoVideo) {
  made("cover.png", "-f lavfi -i testsrc=size=64x48 -frames:v 1");
  const fs::path song = made("song.mp4", std::string(kTone) + " -i " + path("cover.png").string() +
                                             " -map 0 -map 1 -c:a aac -c:v png -disposition:v:0 attached_pic");
  EXPECT_EQ(refused(song), "song.mp4: no video: its picture is a cover");
  EXPECT_FALSE(decode_file(song, {.video = Want::optional}).info.video);
}

TEST_F(Files, VariableRatesAreReadByTheirTimes) {
  // Frames 0..24 of 25 a second, from 0.4 s to 0.8 s none, the last at 0.96 s.
  const fs::path file = made("vfr.mp4",
                             "-f lavfi -i testsrc=size=64x48:rate=25:duration=1 "
                             "-vf select='not(between(n\\,10\\,19))' -vsync vfr -c:v libx264 -qp 0 -bf 2");
  const ReadResult read = decode_file(file);
  EXPECT_FALSE(read.info.video->constant_rate);
  EXPECT_NEAR(read.info.seconds, 1.0, 1e-3);  // the last frame lasts one nominal frame
  ASSERT_EQ(read.clip.frames.count, 25);
  EXPECT_EQ(read.clip.fps, (Rational{25, 1}));
  EXPECT_EQ(read.notes, Notes{"variable frame rate, 14.58 a second on average, put on a grid of 25.00"});
  const auto same = [&](int64_t a, int64_t b) {
    return std::equal(read.clip.frames.frame(a), read.clip.frames.frame(a + 1), read.clip.frames.frame(b));
  };
  EXPECT_FALSE(same(8, 9));
  for (int64_t k = 10; k < 20; ++k) EXPECT_TRUE(same(9, k)) << "the nearest earlier frame stays, frame " << k;
  EXPECT_FALSE(same(9, 20));
  const ReadResult slower = decode_file(file, {.fps = {10, 1}});
  ASSERT_EQ(slower.clip.frames.count, 10);
  for (int64_t k : {0, 1, 2, 8, 9}) {  // 0, 0.1 s (frame 2 of 0.08 s), ...
    const int64_t source = k * 5 / 2;
    EXPECT_TRUE(std::equal(slower.clip.frames.frame(k), slower.clip.frames.frame(k) + 64 * 48 * 3,
                           read.clip.frames.frame(source)))
        << k;
  }
}

TEST_F(Files, BothStreamsShareOneClock) {
  // Sound that begins 0.3 s after the pictures: silence first; 0.32 s before: its start is left out.
  write_wav(path("click.wav"), click_at(0.6, 2, 48'000));
  const std::string picture = kPicture, click = " -i " + path("click.wav").string();
  for (const std::string name : {"a.mp4", "a.mkv"}) {
    SCOPED_TRACE(name);
    const fs::path later = made("later-" + name, picture + " -itsoffset 0.3" + click + " -c:v libx264 -c:a aac");
    EXPECT_NEAR(click_time(decode_file(later).clip.sound), 0.9, 3e-3);
    const fs::path sooner =
        made("sooner-" + name, " -itsoffset 0.32 " + picture + click + " -vsync passthrough -c:v libx264 -c:a aac");
    EXPECT_NEAR(click_time(decode_file(sooner).clip.sound), 0.28, 3e-3);
  }
  // An edit list that leaves out the first 0.52 s of both (stream copy from there on).
  made("whole.mp4", picture + click + " -c:v libx264 -g 50 -bf 2 -c:a aac");
  const fs::path trimmed = made("trimmed.mp4", "-ss 0.52 -i " + path("whole.mp4").string() + " -c copy");
  EXPECT_NEAR(click_time(decode_file(trimmed).clip.sound), 0.08, 3e-3);
  EXPECT_NEAR(decode_file(trimmed).info.seconds, 1.48, 1e-2);
  EXPECT_EQ(decode_file(trimmed).clip.frames.count, 37);
  // Time stamps that begin at 100 s.
  const fs::path far = made("far.mkv", picture + click + " -c:v libx264 -c:a aac -output_ts_offset 100");
  EXPECT_NEAR(click_time(decode_file(far).clip.sound), 0.6, 3e-3);
  EXPECT_EQ(decode_file(far).clip.frames.count, 50);
}

TEST_F(Files, ShortFilesAreRefused) {
  EXPECT_EQ(refused(clip("a.mp4", 7)), "a.mp4: 0.44 s, expected at least 0.50 s");
  EXPECT_EQ(refused(clip("b.mp4", 8)), "accepted");
  EXPECT_EQ(refused(clip("c.mp4", 1)), "c.mp4: 0.06 s, expected at least 0.50 s");
  EXPECT_EQ(decode_file(path("c.mp4"), {.min_seconds = 0}).clip.frames.count, 1);
}

TEST_F(Files, AHeadersWordOnTheLengthIsNotTaken) {
  std::string bytes = io::read_text_file(clip("a.mp4", 32));
  for (const char* box : {"mvhd", "tkhd", "mdhd"}) {
    for (size_t at = 0; (at = bytes.find(box, at)) != std::string::npos; at += 4) {
      const size_t offset = at + 4 + (box == std::string("tkhd") ? 20 : 16);
      std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), 4, '\0');
    }
  }
  const ReadResult read = decode_file(write("none.mp4", bytes));
  EXPECT_EQ(read.info.seconds, 2);
  EXPECT_EQ(read.clip.frames.count, 32);
  EXPECT_EQ(read.notes, Notes{});
}

TEST_F(Files, PixelsAreMadeSquareAndTurned) {
  const fs::path wide = made("wide.mp4", std::string(kPicture) + " -vf setsar=3/2 -c:v libx264");
  EXPECT_EQ(decode_file(wide).clip.frames.width, 96);
  EXPECT_EQ(decode_file(wide).clip.frames.height, 48);
  EXPECT_EQ(decode_file(wide, {.max_side = 48}).clip.frames.width, 48);
  EXPECT_EQ(decode_file(wide, {.max_side = 48}).clip.frames.height, 24);

  const fs::path plain = made("plain.mp4", std::string(kPicture) + " -c:v libx264");
  const Frames upright = decode_file(plain).clip.frames;
  for (const int degrees : {90, 180, 270}) {  // clockwise; ffmpeg 5.1 counts its tag the other way round
    SCOPED_TRACE(degrees);
    const fs::path file = made(fmt::format("r{}.mp4", degrees),
                               fmt::format("-i {} -c copy -metadata:s:v rotate={}", plain.string(), 360 - degrees));
    const ReadResult read = decode_file(file);
    EXPECT_EQ(read.info.video->rotation, degrees);
    EXPECT_EQ(read.notes, Notes{});
    const Frames& turned = read.clip.frames;
    ASSERT_EQ(turned.width, degrees == 180 ? 64 : 48);
    // ffmpeg turns it the same way.
    const fs::path raw = made("raw.mp4", "-i " + file.string() + " -c:v libx264rgb -qp 0");
    EXPECT_GT(psnr(turned, decode_file(raw).clip.frames), 35);
    // Clockwise by 90 degrees, the top left corner is at the top right.
    const uint8_t* corner = upright.frame(0);
    const uint8_t* at = turned.frame(0) + 3 * (degrees == 90 ? 47 : degrees == 180 ? 64 * 48 - 1 : 48 * 63);
    for (int c = 0; c < 3; ++c) EXPECT_EQ(at[c], corner[c]);
  }
}

TEST_F(Files, AnyNumberOfChannelsBecomesTwo) {
  for (const std::string layout : {"5.1", "7.1", "3.0", "quad", "2.1"}) {
    SCOPED_TRACE(layout);
    const fs::path file =
        made(layout + ".wav", "-f lavfi -i aevalsrc='0.99:c=" + layout + ":s=8000:d=1' -c:a pcm_f32le");
    // The source makes one expression a channel; the last serves the rest.
    const Sound sound = decode_file(file, {.video = Want::none}).clip.sound;
    EXPECT_EQ(sound.channels, 2);
    EXPECT_EQ(sound.length(), 8000);
    for (const float sample : sound.samples) ASSERT_LE(std::abs(sample), 1.0F);
    EXPECT_GT(std::abs(sound.samples[4000]), 0.1F);
  }
  write_wav(path("mono.wav"), {.channels = 1, .rate = 8000, .samples = std::vector<float>(8000, 0.5F)});
  const Sound twice = decode_file(path("mono.wav"), {.video = Want::none}).clip.sound;
  ASSERT_EQ(twice.channels, 2);
  EXPECT_NEAR(twice.channel(0)[100], 0.5, 1e-4);
  EXPECT_EQ(twice.channel(0)[100], twice.channel(1)[100]);
  write_wav(path("three.wav"), {.channels = 3, .rate = 8000, .samples = std::vector<float>(3 * 8000, 0.5F)});
  const ReadResult three = decode_file(path("three.wav"), {.video = Want::none});
  EXPECT_EQ(three.clip.sound.channels, 2);
  EXPECT_EQ(three.notes, Notes{"the layout of its 3 channels is a guess"});
}

TEST_F(Files, AnyRateAndSampleFormatIsRead) {
  write_wav(path("click.wav"), click_at(0.25, 1, 48'000));
  for (const int rate : {8000, 22'050, 96'000}) {
    for (const std::string format : {"pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw"}) {
      SCOPED_TRACE(format + " " + std::to_string(rate));
      const fs::path file =
          made("a.wav", "-i " + path("click.wav").string() + fmt::format(" -ar {} -c:a {}", rate, format));
      const ReadResult read = decode_file(file, {.video = Want::none, .sample_rate = 16'000});
      EXPECT_EQ(read.info.audio->rate, rate);
      EXPECT_EQ(read.clip.sound.rate, 16'000);
      EXPECT_NEAR(static_cast<double>(read.clip.sound.length()), 16'000, 1);
      EXPECT_NEAR(click_time(read.clip.sound), 0.25, 1e-3);
    }
  }
}

TEST_F(Files, SamplesThatAreNoNumbersAreRefused) {
  const fs::path file = made("a.wav", std::string(kTone) + " -c:a pcm_f32le");
  for (const float bad : {NAN, INFINITY}) {
    std::string bytes = io::read_text_file(file);
    std::memcpy(&bytes[bytes.size() - 4 * 44'100], &bad, 4);
    EXPECT_EQ(refused(write("bad.wav", bytes), {.video = Want::none}), "bad.wav: sound that is no number at 1.00 s");
  }
}

TEST_F(Files, TheClipEndsWhereTheSizeChanges) {
  // Two sizes in one H.264 stream: MP4 of the first, whose packets the second's follow.
  made("one.h264", "-f lavfi -i testsrc=size=64x48:rate=25:duration=1 -c:v libx264 -f h264");
  made("two.h264", "-f lavfi -i testsrc=size=32x32:rate=25:duration=1 -c:v libx264 -f h264");
  write("both.h264", io::read_text_file(path("one.h264")) + io::read_text_file(path("two.h264")));
  const fs::path file =
      made("both.mkv", "-framerate 25 -f h264 -i " + path("both.h264").string() + " -c copy -bsf:v setts=ts=N*40");
  const ReadResult read = decode_file(file);
  EXPECT_EQ(read.clip.frames.width, 64);
  EXPECT_NEAR(static_cast<double>(read.clip.frames.count), 25, 1);
  ASSERT_FALSE(read.notes.empty());
  EXPECT_TRUE(read.notes[0].starts_with("the size changes from 64 x 48 to 32 x 32 at 1.0 s")) << read.notes[0];
}

TEST_F(Files, ColoursFollowTheirTags) {
  // One flat colour in many ways; each comes back within a few steps.
  const std::string colour = "-f lavfi -i color=c=0xC06030:size=64x48:rate=25:duration=1 ";
  const struct {
    const char* name;
    const char* arguments;
  } cases[] = {
      {"bt601", "-vf scale=out_color_matrix=bt601 -pix_fmt yuv420p -colorspace smpte170m"},
      {"bt709", "-vf scale=out_color_matrix=bt709 -pix_fmt yuv420p -colorspace bt709"},
      {"full", "-vf scale=out_color_matrix=bt709:out_range=full -pix_fmt yuv420p -colorspace bt709 -color_range pc"},
      {"ten bits", "-vf scale=out_color_matrix=bt709 -pix_fmt yuv420p10le -colorspace bt709"},
      {"444", "-vf scale=out_color_matrix=bt709 -pix_fmt yuv444p -colorspace bt709"},
      {"bt2020", "-vf scale=out_color_matrix=bt2020 -pix_fmt yuv420p -colorspace bt2020nc"},
  };
  for (const auto& each : cases) {
    SCOPED_TRACE(each.name);
    const fs::path file = made("a.mp4", colour + each.arguments + " -c:v libx264 -qp 4");
    const ReadResult read = decode_file(file);
    const uint8_t* pixel = read.clip.frames.frame(3) + 3 * (20 * 64 + 30);
    EXPECT_NEAR(pixel[0], 0xC0, 4);
    EXPECT_NEAR(pixel[1], 0x60, 4);
    EXPECT_NEAR(pixel[2], 0x30, 4);
  }
  for (const std::string transfer : {"smpte2084", "arib-std-b67"}) {
    const fs::path hdr = made("hdr.mp4", colour + "-pix_fmt yuv420p10le -c:v libx264 -color_trc " + transfer);
    EXPECT_EQ(refused(hdr), "hdr.mp4: HDR (" + transfer + ")");
    EXPECT_EQ(refused(hdr, {.allow_hdr = true}), "accepted");
  }
}

TEST_F(Files, HeadersThatLieAreRefusedBeforeAnythingIsAllocated) {
  std::string bytes = io::read_text_file(clip("a.mp4", 17));
  const size_t at =
      bytes.find("avc1") == bytes.rfind("avc1") ? bytes.find("avc1") : bytes.rfind("avc1");  // the brand is first
  std::string huge = bytes;
  std::memcpy(&huge[at + 4 + 24], "\xff\xf0\xff\xf0", 4);  // width and height of the sample entry
  EXPECT_EQ(refused(write("huge.mp4", huge)), "huge.mp4: frames of 65520 x 65520, at most 8192 pixels a side are read");
  const std::string wave = [&] {
    write_wav(path("a.wav"), click_at(0.5, 1, 8000));
    return io::read_text_file(path("a.wav"));
  }();
  std::string fast = wave;
  std::memcpy(&fast[24], "\x00\x00\x00\x10", 4);
  EXPECT_EQ(refused(write("fast.wav", fast), {.video = Want::none}),
            "fast.wav: 268435456 samples a second, at most 400000 are read");
  std::string arguments = kPicture;
  for (int i = 0; i < 17; ++i) arguments += " -map 0:v";
  EXPECT_EQ(refused(made("many.mkv", arguments + " -c:v mpeg4")), "many.mkv: 17 streams, at most 16 are read");
  const std::string bounded = refused(path("a.mp4"), {.max_bytes = 50'000});
  EXPECT_EQ(bounded,
            "a.mp4: its pictures and sound take 474.9 KiB, at most 48.8 KiB are read; ask for fewer seconds or smaller "
            "pictures");
}

TEST_F(Files, EncryptedFilesAreRefused) {
  const fs::path file =
      made("a.mp4", std::string(kPicture) +
                        " -c:v libx264 -encryption_scheme cenc-aes-ctr -encryption_key "
                        "00112233445566778899aabbccddeeff -encryption_kid 00112233445566778899aabbccddeeff");
  EXPECT_EQ(refused(file), "a.mp4: encrypted");
}

TEST_F(Files, AWindowIsReadByTime) {
  const fs::path file = clip("a.mp4", 64);
  const ReadResult whole = decode_file(file), part = decode_file(file, {.start_s = 1, .max_seconds = 1.5});
  ASSERT_EQ(part.clip.frames.count, 24);
  EXPECT_TRUE(std::equal(part.clip.frames.pixels.begin(), part.clip.frames.pixels.end(), whole.clip.frames.frame(16)));
  ASSERT_EQ(part.clip.sound.length(), 72'000);
  EXPECT_TRUE(std::equal(part.clip.sound.channel(1), part.clip.sound.channel(1) + 72'000,
                         whole.clip.sound.channel(1) + 48'000));
  EXPECT_EQ(refused(file, {.start_s = 4}), "a.mp4: ends after 4.00 s, asked for what follows 4.00 s");
}

TEST_F(Files, WithoutDecodingTheTimesAreThere) {
  const ReadResult read = decode_file(clip("a.mp4", 32), {.decode = false});
  EXPECT_EQ(read.clip.frames.count, 0);
  EXPECT_EQ(read.info.container, "mp4");
  EXPECT_EQ(read.info.seconds, 2);
  EXPECT_EQ(read.info.video->codec, "h264");
  EXPECT_EQ(read.info.video->num_packets, 32);
  EXPECT_EQ(read.info.video->fps_average, (Rational{16, 1}));
  EXPECT_EQ(read.info.audio->codec, "aac");
  EXPECT_EQ(read.info.audio->rate, 48'000);
  EXPECT_NEAR(read.info.audio->seconds, 2, 1e-6);
}

}  // namespace
}  // namespace unigrpo::media
