#include "monitor/tensorboard_sink.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <system_error>

#include "base/error.h"

namespace unigrpo::monitor {
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78U : 0U);  // reflected polynomial
    table[byte] = crc;
  }
  return table;
}

constexpr auto kCrcTable = make_crc_table();

uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8U; }

template <typename T>
std::string little_endian(T value) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(T); ++i) bytes += static_cast<char>((value >> (8 * i)) & 0xff);
  return bytes;
}

// The wire format of protocol buffers: key = field * 8 + type; 0 varint, 1 fixed64, 2
// length-delimited, 5 fixed32.
std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  return bytes + static_cast<char>(value);
}
std::string varint_field(int field, uint64_t value) { return varint(static_cast<uint64_t>(field) * 8) + varint(value); }
std::string double_field(int field, double value) {
  return varint(static_cast<uint64_t>(field) * 8 + 1) + little_endian(std::bit_cast<uint64_t>(value));
}
std::string bytes_field(int field, std::string_view value) {
  return varint(static_cast<uint64_t>(field) * 8 + 2) + varint(value.size()) + std::string(value);
}
std::string float_field(int field, float value) {
  return varint(static_cast<uint64_t>(field) * 8 + 5) + little_endian(std::bit_cast<uint32_t>(value));
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Event: wall_time = 1, step = 2, then one of file_version = 3, summary = 5, session_log = 7.
std::string event(int64_t step, std::string_view what) {
  std::string bytes = double_field(1, unix_seconds());
  if (step != 0) bytes += varint_field(2, static_cast<uint64_t>(step));
  return bytes.append(what);
}

// TensorBoard reads a folder's files in order of name, so a resumed run's file must sort behind the
// ones there, even when both began in the same second or the clock was set back.
int64_t first_free_second(const std::filesystem::path& folder) {
  int64_t second = static_cast<int64_t>(unix_seconds());
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    second = std::max<int64_t>(second, std::strtoll(name.c_str() + kPrefix.size(), nullptr, 10) + 1);
  }
  return second;
}

std::filesystem::path new_file(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw RuntimeFailure("{}: cannot create the folder: {}", folder.string(), error.message());
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0') host[0] = '-';
  static std::atomic<int> count = 0;
  return folder / fmt::format("{}{:010}.{}.{}.{}", kPrefix, first_free_second(folder), host.data(), getpid(),
                              count.fetch_add(1));
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0U;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

std::string event_frame(std::string_view data) {
  const std::string length = little_endian(static_cast<uint64_t>(data.size()));
  std::string frame = length + little_endian(masked_crc(length));
  frame.append(data);
  return frame + little_endian(masked_crc(data));
}

TensorboardSink::TensorboardSink(const std::filesystem::path& folder, int64_t resume_step)
    : path_(new_file(folder)), file_(std::make_unique<AppendFile>(path_, AppendFile::Mode::create)) {
  std::string start = event_frame(event(0, bytes_field(3, "brain.Event:2")));
  // SessionLog: status = 1, START = 1. TensorBoard purges steps >= this event's.
  if (resume_step >= 0) start += event_frame(event(resume_step, bytes_field(7, varint_field(1, 1))));
  file_->append(start);
}

void TensorboardSink::record(const StepRecord& record) {
  std::string summary;  // Summary: repeated value = 1; Value: tag = 1, simple_value = 2
  for (const auto& [name, value] : record.values) {
    summary += bytes_field(1, bytes_field(1, name) + float_field(2, static_cast<float>(value)));
  }
  file_->append(event_frame(event(record.step, bytes_field(5, summary))));
}

}  // namespace unigrpo::monitor
