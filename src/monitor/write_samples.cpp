// Apart from samples_file.cpp, so that a program which only reads samples links no encoder.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "data/segment_json.h"
#include "io/atomic_file.h"
#include "io/image_codec.h"
#include "media/wav.h"
#include "media/write_mp4.h"
#include "monitor/samples_file.h"

namespace unigrpo::monitor {
namespace {

using data::SegmentKind;
using OrderedJson = nlohmann::ordered_json;
namespace fs = std::filesystem;

void write_image(const fs::path& path, const Image& image) {
  const std::vector<uint8_t> png = io::encode_png(image);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(png.data()), static_cast<std::streamsize>(png.size()));
  file.close();
  if (!file) throw RuntimeFailure("{}: cannot write the image ({} bytes)", path.string(), png.size());
}

OrderedJson finite_or_null(std::optional<double> value) {
  return value && std::isfinite(*value) ? OrderedJson(*value) : OrderedJson(nullptr);
}

/// Some frames of a clip side by side, for eyes that look at many.
Image contact_sheet(const media::Frames& frames) {
  constexpr int64_t kShown = 8;
  const int64_t count = std::min(frames.count, kShown);
  Image sheet{.width = static_cast<int>(count) * frames.width, .height = frames.height, .pixels = {}};
  const size_t row = size_t{3} * static_cast<size_t>(frames.width);
  sheet.pixels.reserve(row * static_cast<size_t>(count) * static_cast<size_t>(frames.height));
  for (int y = 0; y < frames.height; ++y) {
    for (int64_t k = 0; k < count; ++k) {
      const uint8_t* line = frames.frame(k * (frames.count - 1) / std::max<int64_t>(1, count - 1)) + row * y;
      sheet.pixels.insert(sheet.pixels.end(), line, line + row);
    }
  }
  return sheet;
}

/// STEM.mp4, STEM.wav with the sound as it was judged, and STEM.png, a contact sheet.
void write_clip(const fs::path& stem, const data::Sample& sample, const media::Clip& clip) {
  const auto with = [&](const char* extension) { return fs::path(stem.string() + extension); };
  media::write_mp4(with(".mp4"), clip,
                   {.title = valid_utf8(sample.prompt), .comment = fmt::format("seed {}", sample.seed)});
  media::write_wav(with(".wav"), clip.sound);
  write_image(with(".png"), contact_sheet(clip.frames));
}

OrderedJson clip_json(const std::string& path, const media::Clip& clip) {
  return {{"path", path},
          {"frames", clip.frames.count},
          {"fps", clip.fps.value()},
          {"sample_rate", clip.sound.rate},
          {"seconds", clip.frames_s()}};
}

OrderedJson row_json(const SampleRow& row, const std::vector<std::string>& image_names) {
  const data::Sample& sample = row.sample;
  OrderedJson segments = OrderedJson::array();
  size_t image_index = 0;
  for (const data::SampleSegment& segment : sample.segments) {
    if (segment.kind == SegmentKind::text) {
      segments.push_back(data::text_segment_json(segment.text, segment.num_tokens, segment.finished));
    } else if (segment.kind == SegmentKind::av) {
      segments.push_back(data::av_segment_json(clip_json(image_names[image_index++], segment.clip)));
    } else {
      segments.push_back(data::image_segment_json(
          {{"path", image_names[image_index++]}, {"width", segment.image.width}, {"height", segment.image.height}}));
    }
  }
  OrderedJson json = {{"id", sample.id}, {"prompt", sample.prompt}};
  if (!sample.metadata_json.empty()) json["metadata"] = OrderedJson::parse(sample.metadata_json);
  json["segments"] = std::move(segments);
  if (!row.scores.empty()) {
    for (const auto& [term, score] : row.scores) json["scores"][term] = finite_or_null(score);
  }
  for (const auto& [term, reason] : row.reasons) json["reasons"][term] = reason;
  if (!row.notes.empty()) json["notes"] = row.notes;
  if (row.reward) json["reward"] = finite_or_null(row.reward);
  for (const auto& [modality, advantage] : row.advantage) json["advantage"][modality] = finite_or_null(advantage);
  json["seed"] = sample.seed;
  return json;
}

}  // namespace

void write_samples(const fs::path& folder, std::span<const SampleRow> rows) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw RuntimeFailure("{}: cannot create the folder: {}", folder.string(), error.message());
  const fs::path file = folder / kSamplesFile;
  fs::remove(file, error);  // it would vouch for images that are about to change
  if (error) throw RuntimeFailure("{}: cannot replace: {}", file.string(), error.message());

  std::string lines;
  for (size_t row_index = 0; row_index < rows.size(); ++row_index) {
    std::vector<std::string> names;
    for (const data::SampleSegment& segment : rows[row_index].sample.segments) {
      if (segment.kind == SegmentKind::text) continue;
      const std::string stem = fmt::format("{:03}_{:02}", row_index, names.size());
      if (segment.kind == SegmentKind::av) {
        names.push_back(stem + ".mp4");
        write_clip(folder / stem, rows[row_index].sample, segment.clip);
      } else {
        names.push_back(stem + ".png");
        write_image(folder / names.back(), segment.image);
      }
    }
    // Sampled tokens may stop in the middle of a character.
    lines += row_json(rows[row_index], names).dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  }
  io::write_file_atomic(file, std::string_view(lines));
}

}  // namespace unigrpo::monitor
