#include "media/libav.h"

#include <array>
#include <cstdarg>
#include <cstdio>
#include <new>
#include <utility>

#include "base/text.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/log.h>
#include <libswresample/swresample.h>
#include <libswscale/swscale.h>
}

namespace unigrpo::media {
namespace {

constexpr size_t kMaxLine = 160;
thread_local std::string error_line;

void keep_error(void*, int level, const char* format, va_list arguments) {
  if ((level & 0xff) > AV_LOG_ERROR) return;
  std::array<char, 2 * kMaxLine> line{};
  std::vsnprintf(line.data(), line.size(), format, arguments);
  std::string_view text = line.data();
  while (!text.empty() && (text.back() == '\n' || text.back() == '.')) text.remove_suffix(1);
  // Quoted only where it holds what would break a line: a file's own strings may be among them.
  if (const std::string quoted = in_quotes(text, kMaxLine); quoted.size() > 2) {
    error_line = quoted.substr(1, quoted.size() - 2);
  }
}

}  // namespace

void Free::operator()(AVCodecContext* pointer) const { avcodec_free_context(&pointer); }
void Free::operator()(AVFrame* pointer) const { av_frame_free(&pointer); }
void Free::operator()(AVIOContext* pointer) const {
  av_freep(&pointer->buffer);
  avio_context_free(&pointer);
}
void Free::operator()(AVPacket* pointer) const { av_packet_free(&pointer); }
void Free::operator()(SwrContext* pointer) const { swr_free(&pointer); }
void Free::operator()(SwsContext* pointer) const { sws_freeContext(pointer); }

Owned<AVFrame> make_frame() {
  Owned<AVFrame> frame(av_frame_alloc());
  if (!frame) throw std::bad_alloc();
  return frame;
}

Owned<AVPacket> make_packet() {
  Owned<AVPacket> packet(av_packet_alloc());
  if (!packet) throw std::bad_alloc();
  return packet;
}

Dictionary::~Dictionary() { av_dict_free(&dictionary_); }

void Dictionary::set(const char* key, const std::string& value) {
  if (av_dict_set(&dictionary_, key, value.c_str(), 0) < 0) throw std::bad_alloc();
}

void capture_log() { av_log_set_callback(keep_error); }

std::string take_error_line() { return std::exchange(error_line, ""); }

std::string error_text(int code) {
  std::array<char, AV_ERROR_MAX_STRING_SIZE> text{};
  av_strerror(code, text.data(), text.size());
  const std::string line = take_error_line();
  return line.empty() ? std::string(text.data()) : line;
}

}  // namespace unigrpo::media
