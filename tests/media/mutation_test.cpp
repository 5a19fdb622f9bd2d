// 300 files that our own writer made and that were then damaged: each is read or refused with one line, under the
// sanitizers without a crash or a leak, and none keeps the reader busy.
#include <gtest/gtest.h>

#include <cstring>

#include "base/clock.h"
#include "io/atomic_file.h"
#include "media/clips.h"
#include "media/read_clip.h"
#include "media/wav.h"
#include "media/write_mp4.h"
#include "support/temp_folder.h"

namespace unigrpo::media {
namespace {

namespace fs = std::filesystem;

constexpr int kFiles = 300;
constexpr double kPatience_s = 20;  // of one file; a whole one takes some milliseconds

/// Where headers end and packets begin.
size_t headers_end(const std::string& bytes) {
  const size_t data = std::min(bytes.find("mdat"), bytes.find("data"));
  return data == std::string::npos ? bytes.size() : data + 8;
}

std::string mutated(std::string bytes, RandomStream& stream) {
  const size_t headers = headers_end(bytes);
  const auto place = [&] {  // half of them in the headers, where a byte decides most
    return static_cast<size_t>(stream.below(stream.chance(0.5) ? std::min(headers, bytes.size()) : bytes.size()));
  };
  const auto changes = 1 + stream.below(5);
  for (uint64_t i = 0; i < changes; ++i) {
    const size_t at = place();
    const size_t left = bytes.size() - at;
    const auto length = std::min<size_t>(left, 1 + stream.below(32));
    switch (stream.below(7)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << stream.below(8));
        break;
      case 1:
        bytes[at] = static_cast<char>(stream.below(256));
        break;
      case 2: {  // a number of 4 bytes at an edge
        const uint32_t edges[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff0, 0x00ffffff, 0x10000000};
        if (left >= 4) std::memcpy(&bytes[at], &edges[stream.below(8)], 4);
        break;
      }
      case 3:
        std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), length, '\0');
        break;
      case 4:
        bytes.erase(at, length);
        break;
      case 5:
        bytes.insert(at, bytes.substr(stream.below(bytes.size()), length));
        break;
      default:
        if (stream.chance(0.3)) bytes.resize(at + 1);
    }
    if (bytes.size() < 16) break;
  }
  return bytes;
}

TEST(Mutations, AreReadOrRefusedWithOneLine) {
  const testing::TempFolder folder;
  std::vector<std::pair<std::string, std::string>> originals;  // extension, bytes
  for (uint64_t i = 0; i < 4; ++i) {
    const Clip clip = moving_disc({.count = 24, .height = 32 + 16 * static_cast<int>(i), .width = 48}, i);
    const fs::path path = folder.path() / "original";
    if (i == 3) {
      write_wav(path, clip.sound);
    } else {
      write_mp4(path, clip, {.title = "a disc", .video_encoder = i == 2 ? "mpeg4" : "libx264"});
    }
    originals.emplace_back(i == 3 ? "wav" : "mp4", io::read_text_file(path));
  }
  int num_read = 0, num_refused = 0, num_cut = 0;
  for (uint64_t i = 0; i < kFiles; ++i) {
    SCOPED_TRACE(fmt::format("seed 17, file {}", i));
    RandomStream stream({.seed = 17, .sample = i});
    const auto& [extension, bytes] = originals[i % 8 == 7 ? 3 : i % 3];
    const fs::path path = folder.write("file." + extension, mutated(bytes, stream));
    const ReadOptions options = {.video = Want::optional, .min_seconds = 0, .max_bytes = 64 << 20};
    const Stopwatch watch;
    try {
      const ReadResult read = i % 20 == 0 ? read_clip(path, options) : decode_file(path, options);
      ASSERT_EQ(read.clip.frames.pixels.size(),
                read.clip.frames.frame_bytes() * static_cast<size_t>(read.clip.frames.count));
      ++num_read;
      num_cut += read.notes.empty() ? 0 : 1;
    } catch (const unigrpo::BadInput& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("file." + extension + ": "), std::string::npos) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      EXPECT_EQ(text.find("the process that read it"), std::string::npos) << text;
      ++num_refused;
    }
    EXPECT_LT(watch.seconds(), kPatience_s);
  }
  std::printf("%d files: %d read (%d with notes), %d refused\n", kFiles, num_read, num_cut, num_refused);
  EXPECT_GT(num_read, kFiles / 10);
  EXPECT_GT(num_refused, kFiles / 10);
}

}  // namespace
}  // namespace unigrpo::media
