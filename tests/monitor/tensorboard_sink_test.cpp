#include "monitor/tensorboard_sink.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

#include "io/atomic_file.h"
#include "support/temp_folder.h"

namespace unigrpo::monitor {
namespace {

using testing::TempFolder;

// A second, independent reader of the format: framing and the wire format of protocol buffers.
uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = (value << 8) | static_cast<uint8_t>(bytes[i]);
  return value;
}

uint32_t unmask(uint64_t masked) {
  const uint32_t rotated = static_cast<uint32_t>(masked) - 0xa282ead8U;
  return (rotated >> 17) | (rotated << 15);
}

std::vector<std::string> frames_of(std::string_view file) {
  std::vector<std::string> frames;
  while (!file.empty()) {
    const std::string_view length = file.substr(0, 8);
    const uint64_t size = little_endian(length);
    if (unmask(little_endian(file.substr(8, 4))) != crc32c(length)) throw std::runtime_error("length checksum");
    const std::string_view data = file.substr(12, size);
    if (unmask(little_endian(file.substr(12 + size, 4))) != crc32c(data)) throw std::runtime_error("data checksum");
    frames.emplace_back(data);
    file.remove_prefix(16 + size);
  }
  return frames;
}

uint64_t take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes.at(0));
    bytes.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

// Field number -> values, numbers as their little-endian bytes.
std::multimap<int, std::string> fields_of(std::string_view message) {
  std::multimap<int, std::string> fields;
  while (!message.empty()) {
    const uint64_t key = take_varint(message);
    std::string value;
    if (key % 8 == 0) {
      value = std::to_string(take_varint(message));
    } else {
      const size_t size = key % 8 == 1 ? 8 : key % 8 == 5 ? 4 : take_varint(message);
      value = message.substr(0, size);
      message.remove_prefix(size);
    }
    fields.emplace(static_cast<int>(key / 8), value);
  }
  return fields;
}

std::string field(const std::string& message, int number) {
  const auto fields = fields_of(message);
  const auto found = fields.find(number);
  return found == fields.end() ? "" : found->second;
}

TEST(Crc32c, MatchesRfc3720) {
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i);
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  EXPECT_EQ(crc32c(ascending), 0x46dd794eU);
}

TEST(TensorboardSink, WritesVersionThenOneEventAStep) {
  const TempFolder folder;
  TensorboardSink sink(folder.path() / "tensorboard", -1);
  sink.record({.step = 0, .values = {{"reward/mean", 0.25}}});
  sink.record({.step = 300, .values = {{"a", -1.5}, {"b", std::nan("")}}});

  const auto frames = frames_of(io::read_text_file(sink.path()));
  ASSERT_EQ(frames.size(), 3U);
  EXPECT_EQ(field(frames[0], 3), "brain.Event:2");
  EXPECT_GT(std::bit_cast<double>(little_endian(field(frames[0], 1))),
            1.6e9);                    // seconds since 1970
  EXPECT_EQ(field(frames[1], 2), "");  // step 0 is the default
  const std::string first = field(field(frames[1], 5), 1);
  EXPECT_EQ(field(first, 1), "reward/mean");
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(little_endian(field(first, 2)))), 0.25F);
  EXPECT_EQ(field(frames[2], 2), "300");
  EXPECT_EQ(fields_of(field(frames[2], 5)).count(1), 2U);
}

TEST(TensorboardSink, AResumedRunsFileSortsLastAndPurges) {
  const TempFolder folder;
  std::vector<std::string> names;
  for (const int64_t resume_step : {-1, 20, 0}) {
    const TensorboardSink sink(folder.path(), resume_step);
    names.push_back(sink.path().filename().string());
    const auto frames = frames_of(io::read_text_file(sink.path()));
    ASSERT_EQ(frames.size(), resume_step >= 0 ? 2U : 1U);
    EXPECT_EQ(field(frames[0], 3), "brain.Event:2");
    if (resume_step < 0) continue;
    EXPECT_EQ(field(field(frames[1], 7), 1), "1");  // SessionLog START
    EXPECT_EQ(field(frames[1], 2), resume_step == 0 ? "" : std::to_string(resume_step));
  }
  EXPECT_LT(names[0], names[1]);
  EXPECT_LT(names[1], names[2]);
}

// The reader that counts. Skipped where the development requirements are not installed.
TEST(TensorboardSink, IsReadByTheTensorboardPackage) {
  const std::string python = UNIGRPO_SOURCE_DIR "/.venv/bin/python";
  if (std::system(("'" + python + "' -c 'import tensorboard' >/dev/null 2>&1").c_str()) != 0) {
    GTEST_SKIP() << "the venv has no tensorboard package (requirements-dev.txt)";
  }
  const TempFolder folder;
  {
    TensorboardSink first(folder.path(), -1);
    for (int64_t step = 0; step < 10; ++step) {
      first.record({.step = step, .values = {{"reward/mean", static_cast<double>(step)}, {"text/kl", 0.5}}});
    }
    TensorboardSink resumed(folder.path(), 6);
    for (int64_t step = 6; step < 12; ++step) {
      resumed.record({.step = step, .values = {{"reward/mean", 100.0 + static_cast<double>(step)}}});
    }
  }
  const std::string command =
      "'" + python + "' '" UNIGRPO_SOURCE_DIR "/tests/monitor/tensorboard_test.py' '" + folder.path().string() + "'";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

}  // namespace
}  // namespace unigrpo::monitor
