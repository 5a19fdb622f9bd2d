#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "monitor/append_file.h"
#include "monitor/metrics.h"

namespace unigrpo::monitor {

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4).
uint32_t crc32c(std::string_view bytes);

/// One record of TensorBoard's event files (TFRecord framing): length as uint64 little-endian,
/// masked CRC-32C of those 8 bytes, data, masked CRC-32C of data, where masked(c) = rotate_right(c,
/// 15) + 0xa282ead8.
std::string event_frame(std::string_view data);

/// Writes scalars that TensorBoard reads: `events.out.tfevents.<seconds>.<host>.<pid>.<n>` in
/// `folder`, one event a step. Protocol buffers (Event, Summary, SessionLog of tensorflow/core) are
/// written by hand.
class TensorboardSink {
 public:
  /// resume_step >= 0: the file says SessionLog START at that step, on which TensorBoard forgets
  /// what older files hold from there on. The folder is made where missing. Throws RuntimeFailure
  /// naming the path.
  TensorboardSink(const std::filesystem::path& folder, int64_t resume_step);
  /// Values as float32, NaN and infinity included.
  void record(const StepRecord& record);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::unique_ptr<AppendFile> file_;
};

}  // namespace unigrpo::monitor
