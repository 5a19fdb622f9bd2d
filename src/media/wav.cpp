#include "media/wav.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/atomic_file.h"

namespace unigrpo::media {
namespace {

void put(std::string& bytes, uint64_t value, int size) {
  for (int i = 0; i < size; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
}

/// The bytes before the samples.
std::string header_of(uint64_t channels, uint64_t rate, uint64_t data_bytes) {
  std::string bytes = "RIFF";
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
  return bytes;
}

uint64_t get(std::string_view bytes, size_t at, int size) {
  uint64_t value = 0;
  for (int i = 0; i < size; ++i) value |= uint64_t{static_cast<uint8_t>(bytes[at + static_cast<size_t>(i)])} << (8 * i);
  return value;
}

}  // namespace

void write_wav(const std::filesystem::path& path, const Sound& sound) {
  const uint64_t data_bytes = uint64_t{2} * sound.samples.size();
  if (sound.channels < 1 || sound.channels > 0xffff || sound.rate < 1 || data_bytes > 0xffffff00) {
    throw RuntimeFailure("{}: {} channels of {} samples at {} a second are no WAV file", path.string(), sound.channels,
                         sound.length(), sound.rate);
  }
  std::string bytes = header_of(static_cast<uint64_t>(sound.channels), static_cast<uint64_t>(sound.rate), data_bytes);
  bytes.reserve(bytes.size() + data_bytes);
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

Sound read_wav(const std::filesystem::path& path) {
  const std::string bytes = io::read_text_file(path);
  constexpr size_t kHeader = 44, kChannels = 22, kRate = 24;
  const bool whole = bytes.size() > kHeader;
  const uint64_t channels = whole ? get(bytes, kChannels, 2) : 0, rate = whole ? get(bytes, kRate, 4) : 0;
  if (channels == 0 || rate == 0 || rate > INT_MAX || (bytes.size() - kHeader) % (2 * channels) != 0 ||
      !bytes.starts_with(header_of(channels, rate, bytes.size() - kHeader))) {
    throw BadInput("{}: not a WAV file of 16-bit samples as it is written beside a clip", path.string());
  }
  Sound sound{.channels = static_cast<int>(channels), .rate = static_cast<int>(rate), .samples = {}};
  sound.samples.resize((bytes.size() - kHeader) / 2);
  for (size_t k = 0; k < sound.samples.size(); ++k) {  // interleaved
    const auto value = static_cast<int16_t>(get(bytes, kHeader + 2 * k, 2));
    sound.channel(static_cast<int>(k % channels))[k / channels] = static_cast<float>(value) / 32767;
  }
  return sound;
}

}  // namespace unigrpo::media
