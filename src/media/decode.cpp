#include "media/decode.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#include "media/frame_grid.h"
#include "media/input.h"
#include "media/packets.h"
#include "media/picture.h"
#include "media/sound_track.h"
#include "media/timing.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/channel_layout.h>
#include <libavutil/pixdesc.h>
}

namespace unigrpo::media {
namespace {

constexpr double kClock_s = 1e-3;  // coarser clocks count frames, and are exact
constexpr double kMaxFps = 1000;
constexpr double kLeastTruncated_s = 1;  // of what is left of a file that was cut

double tolerance_of(const StreamTimes& times) { return std::min(times.tick_s, kClock_s) + 1e-6; }

bool is_hdr(int transfer) { return transfer == AVCOL_TRC_SMPTE2084 || transfer == AVCOL_TRC_ARIB_STD_B67; }

std::string printable(const char* text) {
  const std::string_view whole = text == nullptr ? "" : text;
  return std::string(whole.substr(0, std::min<size_t>(valid_utf8_prefix(whole), 4000)));
}

/// Reads one file: packets first, for the times; then what is wanted of it.
class Reader {
 public:
  Reader(int descriptor, const std::string& name, const ReadOptions& options)
      : descriptor_(descriptor), name_(name), options_(options) {}

  ReadResult read() {
    measure();
    if (options_.decode) decode_streams();
    return std::move(result_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    throw BadInput("{}: {}", name_, fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void note(fmt::format_string<Args...> format, Args&&... args) {
    result_.notes.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  void measure();
  void check_presence(const Input& input);
  void describe_video(AVStream& stream, AVFormatContext& context);
  void describe_audio(const AVStream& stream);
  void place_on_clock();
  void choose_rate(const AVStream& stream);
  void check_bytes() const;
  void decode_streams();
  void decode_packet(AVCodecContext& decoder, const AVPacket* packet, bool is_video);
  void take_picture(const AVFrame& frame);
  void take_sound(const AVFrame& frame);
  void collect();
  double first_s() const { return origin_s_ + options_.start_s; }

  int descriptor_;
  const std::string& name_;
  const ReadOptions& options_;
  ReadResult result_;
  PacketTimes times_;
  Orientation orientation_;
  double origin_s_ = 0;  // on the container's clock: the clip's 0
  double end_s_ = 0;     // and its end
  Rational fps_;
  int64_t num_places_ = 0;
  double video_tick_s_ = 0, audio_tick_s_ = 0;
  double frame_s_ = 0;  // nominal
  std::optional<FrameGrid> grid_;
  std::optional<SoundTrack> track_;
  std::optional<std::pair<int, int>> coded_size_;
  int64_t num_failed_ = 0;
  bool video_over_ = false, audio_over_ = false;
};

void Reader::measure() {
  Input input(descriptor_, name_);
  AVStream* video = options_.video == Want::none ? nullptr : input.stream(AVMEDIA_TYPE_VIDEO);
  AVStream* audio = options_.audio == Want::none ? nullptr : input.stream(AVMEDIA_TYPE_AUDIO);
  times_ = read_packet_times(input, video, audio);
  check_presence(input);
  result_.info.container = input.container();
  const AVDictionaryEntry* tag = nullptr;
  while ((tag = av_dict_get(input.context().metadata, "", tag, AV_DICT_IGNORE_SUFFIX)) != nullptr) {
    if (result_.info.tags.size() < 100) result_.info.tags[printable(tag->key)] = printable(tag->value);
  }
  if (times_.video) describe_video(*video, input.context());
  if (times_.audio) describe_audio(*audio);
  place_on_clock();
  if (times_.video) choose_rate(*video);
  if (options_.decode) check_bytes();
}

void Reader::check_presence(const Input& input) {
  if (options_.video == Want::required && !times_.video) {
    if (input.has_cover()) refuse("no video: its picture is a cover");
    refuse("no video");
  }
  if (options_.audio == Want::required && !times_.audio) refuse("no audio");
  if (!times_.video && !times_.audio) refuse("no streams: neither pictures nor sound in it");
}

void Reader::describe_video(AVStream& stream, AVFormatContext& context) {
  const StreamTimes& times = *times_.video;
  const AVCodecParameters& codec = *stream.codecpar;
  video_tick_s_ = times.tick_s;
  orientation_ = orientation_of(stream);
  if (orientation_.odd_angle) note("a rotation by no multiple of 90 degrees is left out");
  AVRational aspect = av_guess_sample_aspect_ratio(&context, &stream, nullptr);
  if (aspect.num <= 0 || aspect.den <= 0) aspect = {1, 1};
  const char* pixel_format = av_get_pix_fmt_name(static_cast<AVPixelFormat>(codec.format));
  VideoInfo info = {.codec = avcodec_get_name(codec.codec_id),
                    .pixel_format = pixel_format == nullptr ? "" : pixel_format,
                    .coded_width = codec.width,
                    .coded_height = codec.height,
                    .sample_aspect = {aspect.num, aspect.den},
                    .rotation = orientation_.degrees,
                    .num_packets = times.num_packets,
                    .num_bytes = times.num_bytes,
                    .start_s = times.start_s,
                    .seconds = times.end_s - times.start_s,
                    .hdr = is_hdr(codec.color_trc)};
  const PictureSize size = Painter(orientation_, options_.max_side).size_for(codec.width, codec.height, av_q2d(aspect));
  if (codec.width <= 0 || codec.height <= 0) refuse("no video: the size of its pictures is not known");
  if (size.width == 0) {
    refuse("pictures of {} x {} with pixels of {}:{}, at most {} pixels a side are read", codec.width, codec.height,
           aspect.num, aspect.den, kMaxSide);
  }
  info.width = size.width;
  info.height = size.height;
  if (info.hdr && !options_.allow_hdr) refuse("HDR ({})", av_color_transfer_name(codec.color_trc));
  result_.info.video = info;
}

void Reader::describe_audio(const AVStream& stream) {
  const StreamTimes& times = *times_.audio;
  const AVCodecParameters& codec = *stream.codecpar;
  audio_tick_s_ = times.tick_s;
  std::string layout(64, '\0');
  av_channel_layout_describe(&codec.ch_layout, layout.data(), layout.size());
  layout.resize(layout.find('\0'));
  result_.info.audio = AudioInfo{.codec = avcodec_get_name(codec.codec_id),
                                 .layout = layout,
                                 .channels = codec.ch_layout.nb_channels,
                                 .rate = codec.sample_rate,
                                 .num_packets = times.num_packets,
                                 .num_bytes = times.num_bytes,
                                 .start_s = times.start_s,
                                 .seconds = times.end_s - times.start_s};
}

/// The clip's 0 is its first picture, or the first sound where there are no pictures; it ends with the pictures, or
/// where a file that was cut has not both any more.
void Reader::place_on_clock() {
  origin_s_ = times_.video ? times_.video->start_s : times_.audio->start_s;
  end_s_ = times_.video ? times_.video->end_s : times_.audio->end_s;
  if (times_.truncated) {
    if (times_.video && times_.audio) end_s_ = std::min(end_s_, times_.audio->end_s);
    const double left_s = std::max(end_s_ - origin_s_, 0.0);
    if (left_s < kLeastTruncated_s)
      refuse("truncated at {:.1f} s, expected at least {:.0f} s", left_s, kLeastTruncated_s);
    note("truncated at {:.1f} s", left_s);
  }
  const double seconds = end_s_ - origin_s_;
  if (!(seconds <= kMaxSeconds)) refuse("{:.0f} s, at most {:.0f} s are read", seconds, kMaxSeconds);
  if (seconds < options_.min_seconds - 1e-6)
    refuse("{:.2f} s, expected at least {:.2f} s", seconds, options_.min_seconds);
  result_.info.seconds = seconds;
  if (options_.start_s > 0 && options_.start_s >= seconds) {
    refuse("ends after {:.2f} s, asked for what follows {:.2f} s", seconds, options_.start_s);
  }
  if (options_.max_seconds > 0) end_s_ = std::min(end_s_, first_s() + options_.max_seconds);
}

void Reader::choose_rate(const AVStream& stream) {
  const StreamTimes& times = *times_.video;
  VideoInfo& info = *result_.info.video;
  const auto count = static_cast<double>(times.frames.size());
  const double span_s = times.last_s - times.start_s;
  frame_s_ = times.end_s - times.last_s;
  const double average = count > 1 && span_s > 0 ? (count - 1) / span_s : 1 / frame_s_;
  info.fps_real = nearest_rate(1 / frame_s_ <= kMaxFps ? 1 / frame_s_ : std::min(average, kMaxFps));
  info.fps_average = nearest_rate(average);
  info.constant_rate = false;
  const auto of = [](AVRational rate) { return Rational{rate.num, rate.den}; };
  for (const Rational candidate :
       {of(stream.r_frame_rate), of(stream.avg_frame_rate), info.fps_average, info.fps_real}) {
    if (times.frames.size() > 1 && has_rate(times.frames, candidate, tolerance_of(times))) {
      info.constant_rate = true;
      info.fps_real = info.fps_average = candidate;
      break;
    }
  }
  info.constant_rate |= times.frames.size() == 1;
  fps_ = options_.fps.num > 0 ? options_.fps : info.fps_real;
  if (!info.constant_rate) {
    note("variable frame rate, {:.2f} a second on average, put on a grid of {:.2f}", average, fps_.value());
  }
  num_places_ = num_grid_frames(end_s_ - first_s(), fps_, tolerance_of(times));
}

void Reader::check_bytes() const {
  double bytes = 0;
  if (const auto& video = result_.info.video) {
    bytes += 3.0 * video->width * video->height * static_cast<double>(num_places_);
  }
  if (const auto& audio = result_.info.audio) {
    const double window_s = std::min(audio->seconds + std::abs(audio->start_s - origin_s_),
                                     options_.max_seconds > 0 ? options_.max_seconds : kMaxSeconds);
    bytes += window_s * 2 * sizeof(float) * std::max(audio->rate, options_.sample_rate);
  }
  if (bytes > static_cast<double>(options_.max_bytes)) {
    refuse("its pictures and sound take {}, at most {} are read; ask for fewer seconds or smaller pictures",
           human_bytes(static_cast<uint64_t>(bytes)), human_bytes(options_.max_bytes));
  }
}

void Reader::decode_streams() {
  Input input(descriptor_, name_);
  Owned<AVCodecContext> video, audio;
  if (times_.video) {
    const VideoInfo& info = *result_.info.video;
    video = input.decoder(*input.context().streams[times_.video->index]);
    grid_.emplace(FrameGrid::Options{.fps = fps_,
                                     .start_s = first_s(),
                                     .tolerance_s = tolerance_of(*times_.video),
                                     .count = num_places_,
                                     .size = {info.width, info.height}},
                  Painter(orientation_, options_.max_side));
  }
  if (times_.audio) {
    audio = input.decoder(*input.context().streams[times_.audio->index]);
    // MP4 says to the sample where sound ends; elsewhere the decoder knows, and time stamps are rounded.
    double sound_end_s = result_.info.container == "mp4" ? times_.audio->end_s : origin_s_ + kMaxSeconds;
    if (times_.truncated || options_.max_seconds > 0) sound_end_s = std::min(sound_end_s, end_s_);
    track_.emplace(first_s(), sound_end_s);
  }
  const Owned<AVPacket> packet = make_packet();
  const auto wanted = [&] { return (grid_ && !video_over_ && !grid_->complete()) || (track_ && !audio_over_); };
  while (wanted() && input.read(*packet)) {
    if ((packet->flags & AV_PKT_FLAG_CORRUPT) != 0) continue;
    if (video && !video_over_ && packet->stream_index == times_.video->index) decode_packet(*video, packet.get(), true);
    if (audio && !audio_over_ && packet->stream_index == times_.audio->index)
      decode_packet(*audio, packet.get(), false);
  }
  if (video && !video_over_) decode_packet(*video, nullptr, true);
  if (audio && !audio_over_) decode_packet(*audio, nullptr, false);
  collect();
}

/// Null: the decoder is to give what it still holds.
void Reader::decode_packet(AVCodecContext& decoder, const AVPacket* packet, bool is_video) {
  if (const int sent = avcodec_send_packet(&decoder, packet); sent < 0) {
    if (sent == AVERROR(ENOMEM)) throw std::bad_alloc();
    if (packet != nullptr) ++num_failed_;
  }
  const Owned<AVFrame> frame = make_frame();
  for (;;) {
    const int got = avcodec_receive_frame(&decoder, frame.get());
    if (got == AVERROR(EAGAIN) || got == AVERROR_EOF) return;
    if (got == AVERROR(ENOMEM)) throw std::bad_alloc();
    if (got < 0) {
      ++num_failed_;
      return;
    }
    is_video ? take_picture(*frame) : take_sound(*frame);
    if (is_video ? video_over_ : audio_over_) return;
  }
}

void Reader::take_picture(const AVFrame& frame) {
  double time_s = grid_->last_s() ? *grid_->last_s() + frame_s_ : origin_s_;
  if (frame.best_effort_timestamp != AV_NOPTS_VALUE) {
    time_s = static_cast<double>(frame.best_effort_timestamp) * video_tick_s_;
  }
  if (is_hdr(frame.color_trc) && !options_.allow_hdr) refuse("HDR ({})", av_color_transfer_name(frame.color_trc));
  if (!coded_size_) {
    coded_size_ = {frame.width, frame.height};
    if (frame.width > kMaxSide || frame.height > kMaxSide) {
      refuse("frames of {} x {}, at most {} pixels a side are read", frame.width, frame.height, kMaxSide);
    }
  }
  if (coded_size_->first != frame.width || coded_size_->second != frame.height) {
    note("the size changes from {} x {} to {} x {} at {:.1f} s; the clip ends there", coded_size_->first,
         coded_size_->second, frame.width, frame.height, time_s - origin_s_);
    end_s_ = std::min(end_s_, time_s);
    if (track_) track_->end_at(end_s_);
    video_over_ = true;
    return;
  }
  grid_->take(frame, time_s);
  video_over_ = grid_->complete();
}

void Reader::take_sound(const AVFrame& frame) {
  const int64_t stamp = frame.pts != AV_NOPTS_VALUE ? frame.pts : frame.best_effort_timestamp;
  const double time_s = stamp != AV_NOPTS_VALUE ? static_cast<double>(stamp) * audio_tick_s_ : times_.audio->start_s;
  try {
    if (track_->take(frame, time_s)) return;
  } catch (const BadInput& error) {
    refuse("{}", error.what());
  }
  note("the sound changes its kind at {:.1f} s; the clip ends there", time_s - origin_s_);
  end_s_ = std::min(end_s_, time_s);
  track_->end_at(end_s_);
  audio_over_ = true;
}

void Reader::collect() {
  Clip& clip = result_.clip;
  if (grid_) {
    if (!grid_->last_s()) refuse("no picture of it could be decoded: {}", error_text(AVERROR_INVALIDDATA));
    // What could not be decoded at the end is not made up: the last picture stays for one nominal frame.
    const double tolerance_s = tolerance_of(*times_.video);
    const double last_end_s = *grid_->last_s() + frame_s_;
    if (!video_over_ && last_end_s + tolerance_s < end_s_ - frame_s_) {
      note("the pictures after {:.1f} s could not be decoded; the clip ends there", last_end_s - origin_s_);
      end_s_ = last_end_s;
      if (track_) track_->end_at(end_s_);
    }
    grid_->finish(end_s_ + 2 * tolerance_s);
    clip.fps = fps_;
    clip.frames = grid_->take_frames();
    const int64_t count = std::min(clip.frames.count, num_grid_frames(end_s_ - first_s(), fps_, tolerance_s));
    clip.frames.count = count;
    clip.frames.pixels.resize(static_cast<size_t>(count) * clip.frames.frame_bytes());
  }
  if (track_) {
    clip.sound = track_->take_sound();
    if (clip.sound.channels == 0 && options_.audio == Want::required) {
      refuse("no sound of it could be decoded: {}", error_text(AVERROR_INVALIDDATA));
    }
    if (clip.sound.channels != 0 && options_.sample_rate > 0) clip.sound = resample(clip.sound, options_.sample_rate);
    if (track_->guessed_layout()) note("the layout of its {} channels is a guess", result_.info.audio->channels);
    if (track_->num_gaps() > 0) note("{} jumps in the sound's time stamps", track_->num_gaps());
  }
  if (num_failed_ > 0) note("{} packets could not be decoded", num_failed_);
}

}  // namespace

ReadResult decode(int descriptor, const std::string& name, const ReadOptions& options) {
  return Reader(descriptor, name, options).read();
}

}  // namespace unigrpo::media
