#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "media/clip.h"

namespace unigrpo::media {

struct Mp4Options {
  std::string title = "";    // e.g. the prompt
  std::string comment = "";  // e.g. the model's digest and the seed
  int crf = 18;              // of H.264: 0 to 51, more is smaller and worse
  int audio_bit_rate = 128'000;
  std::string video_encoder = "libx264";  // where libav lacks it: MPEG-4, and a note
};

struct WrittenMp4 {
  int width = 0;  // of the file's pictures
  int height = 0;
  std::vector<std::string> notes;  // "padded from 33 x 17 to 34 x 18"
};

/// Writes an MP4 that plays from its first bytes on (index in front), whole or not at all: H.264 high, yuv420p,
/// bt709 in limited range and tagged so, odd sizes padded by their last row or column; AAC-LC stereo at 48 kHz, padded
/// with silence or cut to the length of the frames. The same clip gives the same bytes.
/// Throws RuntimeFailure naming the path for a clip without frames or rate, samples that are no numbers, what libav
/// refuses and what cannot be written.
WrittenMp4 write_mp4(const std::filesystem::path& path, const Clip& clip, const Mp4Options& options = {});

}  // namespace unigrpo::media
