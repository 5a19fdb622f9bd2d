#pragma once

#include <cstdint>
#include <filesystem>

#include "media/read_options.h"

namespace unigrpo::media {

/// What the process that reads a file may take.
struct ReadLimits {
  uint64_t memory_bytes = uint64_t{2} << 30;
  int cpu_s = 60;
  double wall_s = 120;
};

/// Reads an untrusted media file (MP4, WebM, WAV) in a process of its own, unigrpo-media-worker, which can open no
/// other file and no connection. Frames are uint8 [F, H, W, 3] on the grid k / fps by time stamps (the nearest earlier
/// picture), sound is float32 [2, S] on the same clock: silence before what begins later, nothing from before the first
/// picture, encoders' delays and edit lists taken into account.
/// Throws BadInput "{path}: why", for a decoder's crash, hang or hunger too; RuntimeFailure where the worker is
/// missing.
ReadResult read_clip(const std::filesystem::path& path, const ReadOptions& options = {}, const ReadLimits& limits = {});

}  // namespace unigrpo::media
