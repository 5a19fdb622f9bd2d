#include "media/packets.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "media/timing.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
}

namespace unigrpo::media {
namespace {

constexpr int64_t kMaxPackets = 4'000'000;
constexpr double kUsualRate = 25;  // of a picture alone that says nothing of its length

StreamTimes start_of(const AVStream& stream) { return {.index = stream.index, .tick_s = av_q2d(stream.time_base)}; }

/// Seconds that the decoder will leave out at a packet's start (encoder delay).
double skipped_s(const AVPacket& packet, const AVStream& stream) {
  size_t size = 0;
  const uint8_t* data = av_packet_get_side_data(&packet, AV_PKT_DATA_SKIP_SAMPLES, &size);
  if (data == nullptr || size < 10 || stream.codecpar->sample_rate <= 0) return 0;
  uint32_t samples = 0;
  std::memcpy(&samples, data, sizeof samples);  // little-endian, as this machine
  return static_cast<double>(samples) / stream.codecpar->sample_rate;
}

void add(StreamTimes& times, const AVPacket& packet, const AVStream& stream) {
  if (++times.num_packets > kMaxPackets) throw BadInput("more than {} packets in a stream", kMaxPackets);
  times.num_bytes += packet.size;
  const int64_t pts = packet.pts != AV_NOPTS_VALUE ? packet.pts : packet.dts;
  if ((packet.flags & AV_PKT_FLAG_DISCARD) != 0 || pts == AV_NOPTS_VALUE) return;
  const double time_s = static_cast<double>(pts) * times.tick_s;
  const double end_s = time_s + static_cast<double>(std::max<int64_t>(packet.duration, 0)) * times.tick_s;
  const bool is_video = stream.codecpar->codec_type == AVMEDIA_TYPE_VIDEO;
  if (is_video || !times.timed) times.skipped_until_s = time_s;
  if (const double skipped = skipped_s(packet, stream); skipped > 0) times.skipped_until_s = time_s + skipped;
  const double start_s = is_video ? time_s : std::max(time_s, times.skipped_until_s);
  times.start_s = times.timed ? std::min(times.start_s, start_s) : start_s;
  times.last_s = times.timed ? std::max(times.last_s, time_s) : time_s;
  times.end_s = times.timed ? std::max(times.end_s, end_s) : end_s;
  times.timed = true;
  if (is_video) times.frames.push_back(time_s);
}

/// The header's list of packets, where the container has one, against the file's size.
bool list_ends_beyond(const AVStream* stream, uint64_t size) {
  if (stream == nullptr) return false;
  auto* listed = const_cast<AVStream*>(stream);  // libav's function changes nothing
  for (int i = avformat_index_get_entries_count(stream) - 1; i >= 0; --i) {
    const AVIndexEntry* entry = avformat_index_get_entry(listed, i);
    if (entry != nullptr && entry->size > 0 && static_cast<uint64_t>(entry->pos) + entry->size > size) return true;
  }
  return false;
}

/// MP4 in fragments has no list of all packets; but where it was cut, its last box is longer than what is left.
bool fragment_ends_beyond(const Input& input) {
  constexpr int kMaxBoxes = 1'000'000;
  uint64_t offset = 0;
  bool fragments = false;
  for (int i = 0; i < kMaxBoxes && offset < input.size(); ++i) {
    std::array<uint8_t, 16> head{};  // size of 4 bytes, name; a size of 1 has the true one behind it, 0 is to the end
    if (!input.bytes_at(offset, std::span(head).first(8))) return fragments;
    const auto number = [&](size_t from, size_t count) {
      uint64_t value = 0;
      for (size_t k = from; k < from + count; ++k) value = value << 8 | head[k];
      return value;
    };
    fragments |= std::memcmp(&head[4], "moof", 4) == 0;
    uint64_t size = number(0, 4);
    if (size == 0) return false;
    if (size == 1) {
      if (!input.bytes_at(offset, head)) return fragments;
      size = number(8, 8);
    }
    if (size < 8) return false;
    if (size > input.size() - offset) return fragments;
    offset += size;
  }
  return false;
}

/// Frames in the order of their times, and the end by the nominal frame: a packet's own duration may be as long as the
/// pause before it.
void finish_video(StreamTimes& times, const AVStream& stream) {
  std::ranges::sort(times.frames);
  double frame_s = nominal_frame_s(times.frames);
  if (frame_s == 0) frame_s = times.end_s - times.last_s;
  if (frame_s <= 0 || frame_s > 1) {
    frame_s = stream.r_frame_rate.num > 0 ? 1 / av_q2d(stream.r_frame_rate) : 1 / kUsualRate;
  }
  times.end_s = times.last_s + frame_s;
}

}  // namespace

PacketTimes read_packet_times(Input& input, AVStream* video, AVStream* audio) try {
  PacketTimes times;
  if (video != nullptr) times.video = start_of(*video);
  if (audio != nullptr) times.audio = start_of(*audio);
  const Owned<AVPacket> packet = make_packet();
  while (input.read(*packet)) {
    if ((packet->flags & AV_PKT_FLAG_CORRUPT) != 0) {
      times.truncated = true;
    } else if (video != nullptr && packet->stream_index == video->index) {
      add(*times.video, *packet, *video);
    } else if (audio != nullptr && packet->stream_index == audio->index) {
      add(*times.audio, *packet, *audio);
    }
  }
  if (video != nullptr && times.video->frames.empty()) times.video.reset();
  if (audio != nullptr && !times.audio->timed) times.audio.reset();
  if (times.video) finish_video(*times.video, *video);
  const bool mp4 = input.container() == std::string_view("mp4");
  times.truncated |= list_ends_beyond(video, input.size()) || list_ends_beyond(audio, input.size()) ||
                     (mp4 && fragment_ends_beyond(input));
  // The others have no such list; their headers say how long they are.
  const int64_t told = input.context().duration;
  const double start_s =
      input.context().start_time == AV_NOPTS_VALUE ? 0 : static_cast<double>(input.context().start_time) / AV_TIME_BASE;
  const double end_s = std::max(times.video ? times.video->end_s : 0, times.audio ? times.audio->end_s : 0);
  constexpr double kSlack_s = 0.25;
  if (!mp4 && told > 0 && static_cast<double>(told) / AV_TIME_BASE + std::min(start_s, 0.0) > end_s + kSlack_s) {
    times.truncated = true;
  }
  return times;
} catch (const BadInput& error) {
  const std::string text = error.what();
  if (text.starts_with(input.name())) throw;
  throw BadInput("{}: {}", input.name(), text);
}

}  // namespace unigrpo::media
