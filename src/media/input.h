#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "media/libav.h"

struct AVStream;

namespace unigrpo::media {

/// Bounds that hold before anything is allocated by a header's word.
inline constexpr int kMaxSide = 8192;
inline constexpr double kMaxSeconds = 4 * 3600;
inline constexpr int kMaxRate = 400'000;
inline constexpr int kMaxStreams = 16;

/// An untrusted media file, opened: containers of the list alone (MP4, WebM, WAV), read through an open descriptor,
/// so that no address, no other file and no protocol can be reached from it. Threads are never started.
class Input {
 public:
  /// `name` stands in errors. Throws BadInput "{name}: ..." for what is no such file, encrypted or beyond the bounds.
  Input(int descriptor, std::string name);
  ~Input();
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  AVFormatContext& context() { return *context_; }
  const std::string& name() const { return name_; }
  uint64_t size() const { return source_->size; }
  /// The file's bytes from `offset` on; false where there are not so many.
  bool bytes_at(uint64_t offset, std::span<uint8_t> bytes) const;
  /// "mp4", "webm" or "wav".
  const char* container() const;
  /// The stream of a kind (AVMediaType), null where there is none; a cover picture is no video.
  AVStream* stream(int media_type);
  bool has_cover() const;
  /// The next packet; false at the end or where the rest cannot be read. Throws BadInput for encrypted ones.
  bool read(AVPacket& packet);
  /// A decoder for the stream, ready for packets. Throws BadInput where there is none or it refuses.
  Owned<AVCodecContext> decoder(AVStream& stream);

 private:
  struct Source {  // libav holds its address
    int descriptor = -1;
    int64_t position = 0;
    uint64_t size = 0;
    std::string asked_for;  // another file or address that the demuxer wanted
    static int read(void* opaque, uint8_t* buffer, int size);
    static int64_t seek(void* opaque, int64_t offset, int whence);
    static int refuse(AVFormatContext* context, AVIOContext** io, const char* url, int flags, AVDictionary** options);
  };
  void open();
  void check_streams();
  std::string name_;
  std::unique_ptr<Source> source_;
  Owned<AVIOContext> io_;
  AVFormatContext* context_ = nullptr;
};

}  // namespace unigrpo::media
