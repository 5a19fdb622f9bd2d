#include "media/input.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/mem.h>
}

namespace unigrpo::media {
namespace {

constexpr size_t kMaxAllocation = size_t{768} << 20;

struct Container {
  std::string_view libav;
  const char* name;
};
constexpr std::array kContainers = {Container{"mov,mp4,m4a,3gp,3g2,mj2", "mp4"}, Container{"matroska,webm", "webm"},
                                    Container{"wav", "wav"}};

const Container* container_of(const AVInputFormat* format) {
  const auto* found = std::ranges::find(kContainers, std::string_view(format->name), &Container::libav);
  return found == kContainers.end() ? nullptr : found;
}

/// What the file's start looks like, whatever its name says; null: like nothing that libav knows.
const AVInputFormat* sniff(int descriptor) {
  std::vector<uint8_t> start(kBufferBytes + AVPROBE_PADDING_SIZE);
  const ssize_t got = pread(descriptor, start.data(), kBufferBytes, 0);
  AVProbeData probe = {.filename = "",
                       .buf = start.data(),
                       .buf_size = static_cast<int>(std::max<ssize_t>(got, 0)),
                       .mime_type = nullptr};
  int score = 0;
  return av_probe_input_format3(&probe, 1, &score);
}

bool is_encrypted(const AVStream& stream) {
  const uint32_t tag = stream.codecpar->codec_tag;
  for (const char* name : {"encv", "enca", "drms", "drmi"}) {
    uint32_t named = 0;
    std::memcpy(&named, name, 4);
    if (tag == named) return true;
  }
  return av_stream_get_side_data(&stream, AV_PKT_DATA_ENCRYPTION_INIT_INFO, nullptr) != nullptr ||
         av_stream_get_side_data(&stream, AV_PKT_DATA_ENCRYPTION_INFO, nullptr) != nullptr;
}

}  // namespace

int Input::Source::read(void* opaque, uint8_t* buffer, int size) {
  auto& source = *static_cast<Source*>(opaque);
  for (;;) {
    const ssize_t got = pread(source.descriptor, buffer, static_cast<size_t>(size), source.position);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return AVERROR(errno);
    if (got == 0) return AVERROR_EOF;
    source.position += got;
    return static_cast<int>(got);
  }
}

int64_t Input::Source::seek(void* opaque, int64_t offset, int whence) {
  auto& source = *static_cast<Source*>(opaque);
  const auto size = static_cast<int64_t>(source.size);
  whence &= ~AVSEEK_FORCE;
  if (whence == AVSEEK_SIZE) return size;
  const int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? source.position : size;
  int64_t position = 0;
  if (__builtin_add_overflow(base, offset, &position) || position < 0) return AVERROR(EINVAL);
  return source.position = position;
}

int Input::Source::refuse(AVFormatContext* context, AVIOContext**, const char* url, int, AVDictionary**) {
  static_cast<Source*>(context->opaque)->asked_for = url == nullptr ? "?" : url;
  return AVERROR(EPERM);
}

Input::Input(int descriptor, std::string name) : name_(std::move(name)), source_(std::make_unique<Source>()) {
  capture_log();
  av_max_alloc(kMaxAllocation);
  struct stat status {};
  if (fstat(descriptor, &status) != 0) throw BadInput("{}: cannot be read: {}", name_, std::strerror(errno));
  source_->descriptor = descriptor;
  source_->size = static_cast<uint64_t>(status.st_size);
  take_error_line();
  try {
    open();
    check_streams();
  } catch (...) {
    avformat_close_input(&context_);
    throw;
  }
}

Input::~Input() { avformat_close_input(&context_); }

void Input::open() {
  if (source_->size == 0) throw BadInput("{}: no streams: the file is empty", name_);
  const AVInputFormat* format = sniff(source_->descriptor);
  if (format == nullptr) throw BadInput("{}: no streams: this is neither MP4, WebM nor WAV", name_);
  if (container_of(format) == nullptr) {
    throw BadInput("{}: no streams that are read: this looks like '{}', expected MP4, WebM or WAV", name_,
                   format->name);
  }
  auto* buffer = static_cast<uint8_t*>(av_malloc(kBufferBytes));
  if (buffer == nullptr) throw std::bad_alloc();
  io_.reset(avio_alloc_context(buffer, kBufferBytes, 0, source_.get(), Source::read, nullptr, Source::seek));
  context_ = avformat_alloc_context();
  if (!io_ || context_ == nullptr) throw std::bad_alloc();
  context_->pb = io_.get();
  context_->opaque = source_.get();
  context_->io_open = Source::refuse;
  context_->flags |= AVFMT_FLAG_CUSTOM_IO;
  Dictionary options;
  // References to other files are followed, so that the demuxer asks for them here and is refused.
  if (container_of(format)->name == std::string_view("mp4")) options.set("enable_drefs", "1");
  options.set("protocol_whitelist", "file");
  const int opened = avformat_open_input(&context_, "", format, options.get());  // frees the context where it fails
  if (!source_->asked_for.empty()) {
    throw BadInput("{}: refers to {}; nothing but the file itself is read", name_, in_quotes(source_->asked_for));
  }
  if (opened < 0) throw BadInput("{}: no streams: {}", name_, error_text(opened));
}

void Input::check_streams() {
  if (context_->nb_streams == 0) throw BadInput("{}: no streams", name_);
  if (context_->nb_streams > kMaxStreams) {
    throw BadInput("{}: {} streams, at most {} are read", name_, context_->nb_streams, kMaxStreams);
  }
  const auto check = [&] {
    for (unsigned i = 0; i < context_->nb_streams; ++i) {
      const AVCodecParameters& stream = *context_->streams[i]->codecpar;
      if (is_encrypted(*context_->streams[i])) throw BadInput("{}: encrypted", name_);
      if (stream.width > kMaxSide || stream.height > kMaxSide) {
        throw BadInput("{}: frames of {} x {}, at most {} pixels a side are read", name_, stream.width, stream.height,
                       kMaxSide);
      }
      if (stream.sample_rate > kMaxRate) {
        throw BadInput("{}: {} samples a second, at most {} are read", name_, stream.sample_rate, kMaxRate);
      }
    }
    if (context_->duration != AV_NOPTS_VALUE && static_cast<double>(context_->duration) / AV_TIME_BASE > kMaxSeconds) {
      throw BadInput("{}: {:.0f} s, at most {:.0f} s are read", name_,
                     static_cast<double>(context_->duration) / AV_TIME_BASE, kMaxSeconds);
    }
  };
  check();
  std::vector<Dictionary> options(context_->nb_streams);
  std::vector<AVDictionary*> dictionaries;
  for (Dictionary& each : options) {
    each.set("threads", "1");
    each.set("max_pixels", std::to_string(int64_t{kMaxSide} * kMaxSide));
    dictionaries.push_back(*each.get());
  }
  const int found = avformat_find_stream_info(context_, dictionaries.data());
  for (size_t i = 0; i < options.size(); ++i) *options[i].get() = dictionaries[i];
  if (found < 0) throw BadInput("{}: {}", name_, error_text(found));
  check();
}

bool Input::bytes_at(uint64_t offset, std::span<uint8_t> bytes) const {
  if (offset > size() || bytes.size() > size() - offset) return false;
  return pread(source_->descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(bytes.size());
}

const char* Input::container() const { return container_of(context_->iformat)->name; }

AVStream* Input::stream(int media_type) {
  AVStream* best = nullptr;
  for (unsigned i = 0; i < context_->nb_streams; ++i) {
    AVStream* each = context_->streams[i];
    if (each->codecpar->codec_type != media_type || (each->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0) continue;
    if (best == nullptr ||
        ((each->disposition & AV_DISPOSITION_DEFAULT) != 0 && (best->disposition & AV_DISPOSITION_DEFAULT) == 0)) {
      best = each;
    }
  }
  return best;
}

bool Input::has_cover() const {
  for (unsigned i = 0; i < context_->nb_streams; ++i) {
    if ((context_->streams[i]->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0) return true;
  }
  return false;
}

bool Input::read(AVPacket& packet) {
  av_packet_unref(&packet);
  if (av_read_frame(context_, &packet) < 0) return false;
  if (av_packet_get_side_data(&packet, AV_PKT_DATA_ENCRYPTION_INFO, nullptr) != nullptr) {
    throw BadInput("{}: encrypted", name_);
  }
  return true;
}

Owned<AVCodecContext> Input::decoder(AVStream& stream) {
  const AVCodec* codec = avcodec_find_decoder(stream.codecpar->codec_id);
  if (codec == nullptr) {
    throw BadInput("{}: no decoder for {}", name_, avcodec_get_name(stream.codecpar->codec_id));
  }
  Owned<AVCodecContext> context(avcodec_alloc_context3(codec));
  if (!context) throw std::bad_alloc();
  int done = avcodec_parameters_to_context(context.get(), stream.codecpar);
  context->thread_count = 1;
  context->max_pixels = int64_t{kMaxSide} * kMaxSide;
  context->pkt_timebase = stream.time_base;
  if (done >= 0) done = avcodec_open2(context.get(), codec, nullptr);
  if (done < 0) throw BadInput("{}: the decoder of {} refuses it: {}", name_, codec->name, error_text(done));
  return context;
}

}  // namespace unigrpo::media
