#include "media/wav.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "io/atomic_file.h"

namespace unigrpo::media {
namespace {

void put(std::string& bytes, uint64_t value, int size) {
  for (int i = 0; i < size; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
}

}  // namespace

void write_wav(const std::filesystem::path& path, const Sound& sound) {
  const uint64_t data_bytes = uint64_t{2} * sound.samples.size();
  if (sound.channels < 1 || sound.channels > 0xffff || sound.rate < 1 || data_bytes > 0xffffff00) {
    throw RuntimeFailure("{}: {} channels of {} samples at {} a second are no WAV file", path.string(), sound.channels,
                         sound.length(), sound.rate);
  }
  std::string bytes = "RIFF";
  bytes.reserve(data_bytes + 44);
  const auto channels = static_cast<uint64_t>(sound.channels), rate = static_cast<uint64_t>(sound.rate);
  put(bytes, data_bytes + 36, 4);
  bytes += "WAVEfmt ";
  put(bytes, 16, 4);
  put(bytes, 1, 2);  // PCM
  put(bytes, channels, 2);
  put(bytes, rate, 4);
  put(bytes, rate * channels * 2, 4);
  put(bytes, channels * 2, 2);
  put(bytes, 16, 2);
  bytes += "data";
  put(bytes, data_bytes, 4);
  for (int64_t i = 0; i < sound.length(); ++i) {
    for (int c = 0; c < sound.channels; ++c) {
      const float sample = sound.channel(c)[i];
      if (!std::isfinite(sample)) throw RuntimeFailure("{}: sample {} is no number", path.string(), i);
      const auto value = static_cast<int16_t>(std::lround(std::clamp(sample, -1.0F, 1.0F) * 32767));
      put(bytes, static_cast<uint16_t>(value), 2);
    }
  }
  io::write_file_atomic(path, bytes);
}

}  // namespace unigrpo::media
