#include "ingest/reading.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "media/read_clip.h"

namespace unigrpo::ingest {
namespace {

using nlohmann::json;

/// What the reader says, and what it is counted under. The first that is found counts.
constexpr std::array<std::pair<std::string_view, const char*>, 19> kReasons = {{
    {"no streams", "no streams"},
    {"no audio", "no audio"},
    {"no sound of it could be decoded", "no audio"},
    {"no video", "no video"},
    {"no picture of it could be decoded", "no video"},
    {"truncated at", "truncated"},
    {"s, expected at least", "too short"},
    {"HDR", "HDR"},
    {"encrypted", "encrypted"},
    {"at most", "too large"},
    {"refers to", "refers elsewhere"},
    {"no number", "bad samples"},
    {"decoder of", "no decoder"},
    {"took longer", "too slow"},
    {"processor time", "too slow"},
    {"of memory", "too large"},
    {"no decoder", "no decoder"},
    {"the process that read it", "crashed the decoder"},
    {"cannot open", "cannot be opened"},
}};

media::Frames cropped(const media::Frames& frames, int x, int y, int width, int height) {
  media::Frames part = {.count = frames.count, .height = height, .width = width, .pixels = {}};
  part.pixels.reserve(static_cast<size_t>(frames.count) * part.frame_bytes());
  for (int64_t k = 0; k < frames.count; ++k) {
    for (int row = y; row < y + height; ++row) {
      const uint8_t* from = frames.frame(k) + 3 * (static_cast<size_t>(row) * frames.width + x);
      part.pixels.insert(part.pixels.end(), from, from + size_t{3} * width);
    }
  }
  return part;
}

/// Sound that is heard `shift_s` later; what is moved in is silence.
void shift(media::Sound& sound, double shift_s) {
  const int64_t length = sound.length();
  const int64_t by = std::clamp<int64_t>(std::llround(shift_s * sound.rate), -length, length);
  for (int c = 0; c < sound.channels; ++c) {
    float* samples = sound.channel(c);
    if (by >= 0) {
      std::copy_backward(samples, samples + length - by, samples + length);
      std::fill(samples, samples + by, 0.0F);
    } else {
      std::copy(samples - by, samples + length, samples);
      std::fill(samples + length + by, samples + length, 0.0F);
    }
  }
}

}  // namespace

json refused(const json& row, const std::string& message) {
  const std::string path = row.at("path");
  const size_t at = message.find(path + ": ");
  const std::string detail = valid_utf8(at == std::string::npos ? message : message.substr(at + path.size() + 2), 400);
  for (const auto& [text, reason] : kReasons) {
    if (detail.find(text) != std::string::npos) return dropped(reason, detail);
  }
  return dropped("cannot be read", detail);
}

media::ReadResult read_row(const Options& options, const json& row, media::ReadOptions read) {
  read.start_s = row.value("start_s", 0.0);
  read.max_seconds = row.value("seconds", 0.0);
  if (!has_stream(row, "audio")) read.audio = media::Want::none;
  return media::read_clip(options.in / row.at("path").get<std::string>(), read);
}

media::Clip read_repaired(const Options& options, const json& row, const media::ReadOptions& read) {
  media::ReadResult result = read_row(options, row, read);
  media::Clip& clip = result.clip;
  const json repairs = row.value("repairs", json::object());
  if (repairs.contains("crop") && clip.frames.count > 0) {
    // In shares of the picture, since it may be read at another size.
    const auto at = [&](int i, int size) {
      return static_cast<int>(std::lround(repairs["crop"][i].get<double>() * size));
    };
    const int x = at(0, clip.frames.width), y = at(1, clip.frames.height);
    const int width = std::clamp(at(2, clip.frames.width), 1, clip.frames.width - x);
    const int height = std::clamp(at(3, clip.frames.height), 1, clip.frames.height - y);
    clip.frames = cropped(clip.frames, x, y, width, height);
  }
  if (repairs.contains("copy_channel") && clip.sound.channels == 2) {
    const int from = repairs["copy_channel"];
    std::copy_n(clip.sound.channel(from), clip.sound.length(), clip.sound.channel(1 - from));
  }
  if (repairs.contains("shift_s")) shift(clip.sound, repairs["shift_s"]);
  return std::move(clip);
}

bool has_stream(const json& row, const char* stream) {
  const json& streams = row.at("streams");
  return std::ranges::find(streams, stream) != streams.end();
}

void make_mute(json& row) { row["streams"] = {"video"}; }

double rounded(double value) { return std::round(value * 1e6) / 1e6; }

}  // namespace unigrpo::ingest
