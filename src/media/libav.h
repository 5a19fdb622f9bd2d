#pragma once

#include <memory>
#include <string>
#include <string_view>

struct AVCodecContext;
struct AVDictionary;
struct AVFormatContext;
struct AVFrame;
struct AVIOContext;
struct AVPacket;
struct SwrContext;
struct SwsContext;

namespace unigrpo::media {

/// Owners of what libav allocates. libav's own headers are seen in .cpp files of this folder alone.
struct Free {
  void operator()(AVCodecContext* pointer) const;
  void operator()(AVFrame* pointer) const;
  void operator()(AVIOContext* pointer) const;
  void operator()(AVPacket* pointer) const;
  void operator()(SwrContext* pointer) const;
  void operator()(SwsContext* pointer) const;
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

Owned<AVFrame> make_frame();  // throws std::bad_alloc, as the next does
Owned<AVPacket> make_packet();

inline constexpr int kBufferBytes = 1 << 16;  // of an AVIOContext

/// Options for a call of libav that takes a dictionary.
class Dictionary {
 public:
  Dictionary() = default;
  ~Dictionary();
  Dictionary(const Dictionary&) = delete;
  Dictionary& operator=(const Dictionary&) = delete;
  void set(const char* key, const std::string& value);
  AVDictionary** get() { return &dictionary_; }

 private:
  AVDictionary* dictionary_ = nullptr;
};

/// libav's errors go to where `last_error_line` finds them, and nothing is printed. For the whole process.
void capture_log();
/// The last error that libav put into its log in this thread since the last call; "" where there was none.
std::string take_error_line();
/// What a negative return value of libav means, the log's last line first: "moov atom not found (Invalid data ...)".
std::string error_text(int code);

}  // namespace unigrpo::media
