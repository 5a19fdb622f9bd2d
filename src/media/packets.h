#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "media/input.h"

namespace unigrpo::media {

/// What a stream's packets say of its times, in seconds of the container's clock. Those that an edit list leaves out
/// are not among them.
struct StreamTimes {
  int index = -1;  // of the stream
  int64_t num_packets = 0;
  int64_t num_bytes = 0;
  bool timed = false;  // a packet had a time
  double tick_s = 0;   // of the stream's clock: what a time stamp may be off by
  double start_s = 0;
  double skipped_until_s = 0;       // sound before it is the encoder's delay
  double last_s = 0;                // beginning of the last packet
  double end_s = 0;                 // video: last_s and one nominal frame; sound: end of the last packet
  std::vector<double> frames = {};  // video: when each is shown, ascending
};

struct PacketTimes {
  std::optional<StreamTimes> video, audio;
  bool truncated = false;  // the file ends before what its headers speak of
};

/// Reads all packets of the two streams (null: not wanted) without decoding any. Throws BadInput beyond the bounds.
PacketTimes read_packet_times(Input& input, AVStream* video, AVStream* audio);

}  // namespace unigrpo::media
