#include "media/write_mp4.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "io/atomic_file.h"
#include "media/libav.h"
#include "media/resample.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/channel_layout.h>
#include <libavutil/mem.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}

namespace unigrpo::media {
namespace {

constexpr int kSoundRate = 48'000;
constexpr int kMaxSide = 8192;

/// A file in memory that libav writes, and reads again to put the index in front.
class MemoryFile {
 public:
  struct Place {  // of one who reads or writes
    MemoryFile* file = nullptr;
    int64_t position = 0;
  };
  std::vector<uint8_t> bytes;

  static int write(void* opaque, uint8_t* buffer, int size) {
    auto& place = *static_cast<Place*>(opaque);
    std::vector<uint8_t>& bytes = place.file->bytes;
    const auto end = static_cast<size_t>(place.position) + static_cast<size_t>(size);
    if (bytes.size() < end) bytes.resize(end);
    std::copy_n(buffer, size, bytes.begin() + place.position);
    place.position += size;
    return size;
  }
  static int read(void* opaque, uint8_t* buffer, int size) {
    auto& place = *static_cast<Place*>(opaque);
    const int64_t left = static_cast<int64_t>(place.file->bytes.size()) - place.position;
    const auto count = static_cast<int>(std::min<int64_t>(left, size));
    if (count <= 0) return AVERROR_EOF;
    std::copy_n(place.file->bytes.begin() + place.position, count, buffer);
    place.position += count;
    return count;
  }
  static int64_t seek(void* opaque, int64_t offset, int whence) {
    auto& place = *static_cast<Place*>(opaque);
    const auto size = static_cast<int64_t>(place.file->bytes.size());
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE) return size;
    const int64_t target = offset + (whence == SEEK_SET ? 0 : whence == SEEK_CUR ? place.position : size);
    return target < 0 ? AVERROR(EINVAL) : place.position = target;
  }
};

/// libav takes the buffer over and may replace it; `Free` frees whichever is there.
Owned<AVIOContext> make_io(MemoryFile::Place& place, bool writes) {
  auto* buffer = static_cast<uint8_t*>(av_malloc(kBufferBytes));
  if (buffer == nullptr) throw std::bad_alloc();
  Owned<AVIOContext> io(avio_alloc_context(buffer, kBufferBytes, writes ? 1 : 0, &place, MemoryFile::read,
                                           writes ? MemoryFile::write : nullptr, MemoryFile::seek));
  if (!io) throw std::bad_alloc();
  return io;
}

/// Ticks a second of the file's own clock, in which edit lists say how long sound lasts. libav's 1000 would cut up to
/// half a millisecond of it.
int64_t movie_timescale(Rational fps) {
  const int64_t ticks = std::lcm(int64_t{kSoundRate}, fps.num);
  return ticks <= INT32_MAX ? ticks : kSoundRate;
}

struct FreeMuxer {
  void operator()(AVFormatContext* context) const { avformat_free_context(context); }
};

/// One MP4 under way.
class Muxer {
 public:
  Muxer(const Clip& clip, const Mp4Options& options) : clip_(clip), options_(options) {}
  std::vector<uint8_t> write();
  WrittenMp4 written;

 private:
  void open_container();
  void open_video();
  void open_audio();
  void write_picture(int64_t index);
  void write_sound(int64_t first);
  void encode(AVCodecContext& codec, AVStream& stream, const AVFrame* frame);
  AVStream& add_stream(const AVCodecContext& codec);
  static void require(int code, const char* doing) {
    if (code < 0) throw RuntimeFailure("cannot {}: {}", doing, error_text(code));
  }
  static int open_again(AVFormatContext* context, AVIOContext** io, const char*, int flags, AVDictionary**);
  static int close_again(AVFormatContext*, AVIOContext* io) {
    Owned<AVIOContext> closed(io);
    return 0;
  }

  const Clip& clip_;
  const Mp4Options& options_;
  MemoryFile file_;
  MemoryFile::Place write_place_{&file_, 0}, read_place_{&file_, 0};
  Owned<AVIOContext> io_;
  std::unique_ptr<AVFormatContext, FreeMuxer> container_;
  Owned<AVCodecContext> video_, audio_;
  AVStream* video_stream_ = nullptr;
  AVStream* audio_stream_ = nullptr;
  Owned<SwsContext> to_yuv_;
  Owned<AVFrame> picture_;
  std::vector<uint8_t> padded_;
  Sound sound_;
  Owned<AVPacket> packet_;
};

int Muxer::open_again(AVFormatContext* context, AVIOContext** io, const char*, int flags, AVDictionary**) try {
  auto& muxer = *static_cast<Muxer*>(context->opaque);
  if (flags != AVIO_FLAG_READ) return AVERROR(EPERM);
  muxer.read_place_.position = 0;
  *io = make_io(muxer.read_place_, false).release();
  return 0;
} catch (const std::bad_alloc&) {
  return AVERROR(ENOMEM);
}

void Muxer::open_container() {
  AVFormatContext* made = nullptr;
  require(avformat_alloc_output_context2(&made, nullptr, "mp4", nullptr), "make an MP4");
  container_.reset(made);
  io_ = make_io(write_place_, true);
  made->pb = io_.get();
  made->opaque = this;
  made->io_open = open_again;
  made->io_close2 = close_again;
  made->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT;  // no name of a version in it
  if (!options_.title.empty()) av_dict_set(&made->metadata, "title", options_.title.c_str(), 0);
  if (!options_.comment.empty()) av_dict_set(&made->metadata, "comment", options_.comment.c_str(), 0);
  packet_ = make_packet();
}

AVStream& Muxer::add_stream(const AVCodecContext& codec) {
  AVStream* stream = avformat_new_stream(container_.get(), nullptr);
  if (stream == nullptr) throw std::bad_alloc();
  require(avcodec_parameters_from_context(stream->codecpar, &codec), "describe a stream");
  stream->time_base = codec.time_base;
  return *stream;
}

void Muxer::open_video() {
  const Frames& frames = clip_.frames;
  written.width = frames.width + frames.width % 2;
  written.height = frames.height + frames.height % 2;
  if (written.width != frames.width || written.height != frames.height) {
    written.notes.push_back(
        fmt::format("padded from {} x {} to {} x {}", frames.width, frames.height, written.width, written.height));
  }
  const AVCodec* codec = avcodec_find_encoder_by_name(options_.video_encoder.c_str());
  const bool x264 = codec != nullptr && std::string_view(codec->name) == "libx264";
  if (codec == nullptr) {
    codec = avcodec_find_encoder(AV_CODEC_ID_MPEG4);
    written.notes.push_back(fmt::format("libav has no {} here: MPEG-4 instead of H.264", options_.video_encoder));
  }
  if (codec == nullptr) throw RuntimeFailure("libav has neither {} nor MPEG-4", options_.video_encoder);
  video_.reset(avcodec_alloc_context3(codec));
  if (!video_) throw std::bad_alloc();
  video_->width = written.width;
  video_->height = written.height;
  video_->pix_fmt = AV_PIX_FMT_YUV420P;
  video_->time_base = {static_cast<int>(clip_.fps.den), static_cast<int>(clip_.fps.num)};
  video_->framerate = {static_cast<int>(clip_.fps.num), static_cast<int>(clip_.fps.den)};
  video_->sample_aspect_ratio = {1, 1};
  video_->color_range = AVCOL_RANGE_MPEG;
  video_->color_primaries = AVCOL_PRI_BT709;
  video_->color_trc = AVCOL_TRC_BT709;
  video_->colorspace = AVCOL_SPC_BT709;
  video_->chroma_sample_location = AVCHROMA_LOC_LEFT;
  // Pictures in the order of their times: then no edit list is needed, which simple readers overlook.
  video_->max_b_frames = 0;
  video_->thread_count = 1;  // the same bytes on every machine
  video_->flags |= AV_CODEC_FLAG_BITEXACT | AV_CODEC_FLAG_GLOBAL_HEADER;
  Dictionary settings;
  if (x264) {
    settings.set("crf", std::to_string(options_.crf));
    settings.set("profile", "high");
    settings.set("bf", "0");
    // With its look at later pictures x264 gives other bytes by what the process did before, one thread or many.
    settings.set("x264-params", "mbtree=0");
  } else {
    video_->flags |= AV_CODEC_FLAG_QSCALE;
    video_->global_quality = 2 * FF_QP2LAMBDA;
  }
  require(avcodec_open2(video_.get(), codec, settings.get()), "open the video encoder");
  video_stream_ = &add_stream(*video_);
  video_stream_->avg_frame_rate = video_->framerate;

  picture_ = make_frame();
  picture_->format = AV_PIX_FMT_YUV420P;
  picture_->width = written.width;
  picture_->height = written.height;
  picture_->color_range = AVCOL_RANGE_MPEG;
  picture_->colorspace = AVCOL_SPC_BT709;
  require(av_frame_get_buffer(picture_.get(), 0), "make a picture");
  to_yuv_.reset(sws_getContext(written.width, written.height, AV_PIX_FMT_RGB24, written.width, written.height,
                               AV_PIX_FMT_YUV420P, SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_BITEXACT,
                               nullptr, nullptr, nullptr));
  if (!to_yuv_) throw RuntimeFailure("cannot convert pictures of {} x {}", written.width, written.height);
  sws_setColorspaceDetails(to_yuv_.get(), sws_getCoefficients(SWS_CS_DEFAULT), 1, sws_getCoefficients(SWS_CS_ITU709), 0,
                           0, 1 << 16, 1 << 16);
}

void Muxer::open_audio() {
  const AVCodec* codec = avcodec_find_encoder(AV_CODEC_ID_AAC);
  if (codec == nullptr) throw RuntimeFailure("libav has no AAC encoder");
  audio_.reset(avcodec_alloc_context3(codec));
  if (!audio_) throw std::bad_alloc();
  audio_->sample_rate = kSoundRate;
  audio_->sample_fmt = AV_SAMPLE_FMT_FLTP;
  audio_->bit_rate = options_.audio_bit_rate;
  audio_->time_base = {1, kSoundRate};
  av_channel_layout_default(&audio_->ch_layout, 2);
  audio_->thread_count = 1;
  audio_->flags |= AV_CODEC_FLAG_BITEXACT | AV_CODEC_FLAG_GLOBAL_HEADER;
  // Half the time of the usual search ("twoloop"), and no further from the sound: 18.4 dB against 16.9 over eight tones
  // in noise.
  Dictionary settings;
  settings.set("aac_coder", "fast");
  require(avcodec_open2(audio_.get(), codec, settings.get()), "open the AAC encoder");
  audio_stream_ = &add_stream(*audio_);

  const Sound at_rate = resample(clip_.sound, kSoundRate);
  const int64_t length = std::llround(clip_.frames_s() * kSoundRate);
  if (at_rate.length() > length) {
    written.notes.push_back(
        fmt::format("sound cut from {:.3f} s to the pictures' {:.3f} s", clip_.sound_s(), clip_.frames_s()));
  }
  sound_ = {.channels = 2, .rate = kSoundRate, .samples = std::vector<float>(static_cast<size_t>(2 * length))};
  for (int c = 0; c < 2; ++c) {
    std::copy_n(at_rate.channel(std::min(c, at_rate.channels - 1)), std::min(length, at_rate.length()),
                sound_.channel(c));
  }
}

void Muxer::encode(AVCodecContext& codec, AVStream& stream, const AVFrame* frame) {
  require(avcodec_send_frame(&codec, frame), "encode");
  for (;;) {
    const int got = avcodec_receive_packet(&codec, packet_.get());
    if (got == AVERROR(EAGAIN) || got == AVERROR_EOF) return;
    require(got, "encode");
    if (packet_->duration == 0 && &stream == video_stream_) packet_->duration = 1;
    av_packet_rescale_ts(packet_.get(), codec.time_base, stream.time_base);
    packet_->stream_index = stream.index;
    require(av_interleaved_write_frame(container_.get(), packet_.get()), "write the MP4");
  }
}

void Muxer::write_picture(int64_t index) {
  const Frames& frames = clip_.frames;
  const uint8_t* rgb = frames.frame(index);
  const size_t row = size_t{3} * static_cast<size_t>(frames.width),
               wide = size_t{3} * static_cast<size_t>(written.width);
  // A row beyond the end for libswscale's vector code, which reads whole registers.
  padded_.resize(wide * static_cast<size_t>(written.height) + 64);
  for (int y = 0; y < written.height; ++y) {
    const uint8_t* from = rgb + row * static_cast<size_t>(std::min(y, frames.height - 1));
    uint8_t* to = padded_.data() + wide * static_cast<size_t>(y);
    std::copy_n(from, row, to);
    if (wide > row) std::copy_n(from + row - 3, 3, to + row);
  }
  require(av_frame_make_writable(picture_.get()), "make a picture");
  const std::array<const uint8_t*, 4> planes = {padded_.data(), nullptr, nullptr, nullptr};
  const std::array<int, 4> strides = {static_cast<int>(wide), 0, 0, 0};
  require(
      sws_scale(to_yuv_.get(), planes.data(), strides.data(), 0, written.height, picture_->data, picture_->linesize),
      "convert a picture");
  picture_->pts = index;
  encode(*video_, *video_stream_, picture_.get());
}

void Muxer::write_sound(int64_t first) {
  const Owned<AVFrame> block = make_frame();
  block->format = AV_SAMPLE_FMT_FLTP;
  block->sample_rate = kSoundRate;
  block->nb_samples = static_cast<int>(std::min<int64_t>(audio_->frame_size, sound_.length() - first));
  av_channel_layout_default(&block->ch_layout, 2);
  require(av_frame_get_buffer(block.get(), 0), "make a block of sound");
  for (int c = 0; c < 2; ++c) {
    std::copy_n(sound_.channel(c) + first, block->nb_samples, reinterpret_cast<float*>(block->extended_data[c]));
  }
  block->pts = first;
  encode(*audio_, *audio_stream_, block.get());
}

std::vector<uint8_t> Muxer::write() {
  open_container();
  open_video();
  if (clip_.sound.length() > 0) open_audio();
  Dictionary settings;
  settings.set("movflags", "+faststart");
  settings.set("movie_timescale", std::to_string(movie_timescale(clip_.fps)));
  require(avformat_write_header(container_.get(), settings.get()), "write the MP4");
  int64_t heard = 0;
  for (int64_t k = 0; k < clip_.frames.count; ++k) {
    write_picture(k);
    // Sound beside the pictures that it goes with.
    const int64_t until = std::llround(static_cast<double>(k + 1) / clip_.fps.value() * kSoundRate);
    while (audio_ && heard < std::min(until, sound_.length())) {
      write_sound(heard);
      heard += audio_->frame_size;
    }
  }
  encode(*video_, *video_stream_, nullptr);
  if (audio_) encode(*audio_, *audio_stream_, nullptr);
  require(av_write_trailer(container_.get()), "finish the MP4");
  avio_flush(io_.get());
  return std::move(file_.bytes);
}

void check(const Clip& clip) {
  const Frames& frames = clip.frames;
  if (frames.count < 1 || frames.width < 1 || frames.height < 1 || frames.width > kMaxSide ||
      frames.height > kMaxSide || frames.pixels.size() != frames.frame_bytes() * static_cast<size_t>(frames.count)) {
    throw RuntimeFailure("{} frames of {} x {} are no clip", frames.count, frames.width, frames.height);
  }
  // MPEG-4 has 16 bits for either; H.264 and MP4 have more than that.
  constexpr int64_t kMaxTicks = 65'535;
  if (clip.fps.num < 1 || clip.fps.den < 1 || clip.fps.num > kMaxTicks || clip.fps.den > kMaxTicks) {
    throw RuntimeFailure("{}/{} frames a second are no rate, expected 1..{} for both", clip.fps.num, clip.fps.den,
                         kMaxTicks);
  }
  if (clip.sound.samples.empty()) return;
  if (clip.sound.rate < 1 || clip.sound.channels < 1 || clip.sound.channels > 2) {
    throw RuntimeFailure("sound of {} channels at {} Hz, expected 1 or 2 channels", clip.sound.channels,
                         clip.sound.rate);
  }
  if (!std::ranges::all_of(clip.sound.samples, [](float sample) { return std::isfinite(sample); })) {
    throw RuntimeFailure("sound that is no number");
  }
}

}  // namespace

WrittenMp4 write_mp4(const std::filesystem::path& path, const Clip& clip, const Mp4Options& options) {
  capture_log();
  Muxer muxer(clip, options);
  std::vector<uint8_t> bytes;
  try {
    check(clip);
    bytes = muxer.write();
  } catch (const RuntimeFailure& error) {
    throw RuntimeFailure("{}: {}", path.string(), error.what());
  }
  io::write_file_atomic(path, std::as_bytes(std::span(bytes)));
  return muxer.written;
}

}  // namespace unigrpo::media
