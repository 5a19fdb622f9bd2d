#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "media/clip.h"

namespace unigrpo::media {

enum class Want { required, optional, none };

struct ReadOptions {
  Want video = Want::required;
  Want audio = Want::optional;
  Rational fps = {0, 1};                   // grid of the frames; 0: the file's own rate
  int sample_rate = 0;                     // of the sound; 0: the file's own
  int max_side = 0;                        // frames are made smaller until neither side is above it; 0: as they are
  double start_s = 0;                      // first moment that is read
  double max_seconds = 0;                  // and how many seconds from there; 0: all
  double min_seconds = 0.5;                // a shorter file is refused
  bool allow_hdr = false;                  // PQ and HLG as if they were SDR; else refused
  bool decode = true;                      // false: `info` and the notes alone, from the packets
  uint64_t max_bytes = uint64_t{1} << 30;  // of frames and sound together
};

struct VideoInfo {
  std::string codec = {};
  std::string pixel_format = {};
  int width = 0;  // as shown: square pixels, turned
  int height = 0;
  int coded_width = 0;
  int coded_height = 0;
  Rational sample_aspect = {1, 1};
  int rotation = 0;  // degrees clockwise that the picture is turned by for display
  int64_t num_packets = 0;
  int64_t num_bytes = 0;
  double start_s = 0;         // of the container's clock
  double seconds = 0;         // last time stamp less the first, and one nominal frame
  Rational fps_average = {};  // frames by time
  Rational fps_real = {};     // one by the nominal frame: the median distance of two
  bool constant_rate = true;
  bool hdr = false;
};

struct AudioInfo {
  std::string codec = {};
  std::string layout = {};
  int channels = 0;
  int rate = 0;
  int64_t num_packets = 0;
  int64_t num_bytes = 0;
  double start_s = 0;
  double seconds = 0;
};

struct MediaInfo {
  std::string container;  // "mp4", "webm" or "wav"
  double seconds = 0;     // of what is read; a header's word is not taken for it
  std::optional<VideoInfo> video;
  std::optional<AudioInfo> audio;
  std::map<std::string, std::string> tags;  // the container's, e.g. "title"
};

struct ReadResult {
  MediaInfo info;
  Clip clip;                       // frames on the grid k / fps; sound always stereo, heard from the first frame on
  std::vector<std::string> notes;  // what was repaired or left out: "truncated at 3.2 s"
};

}  // namespace unigrpo::media
