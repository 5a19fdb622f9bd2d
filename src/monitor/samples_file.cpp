#include "monitor/samples_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "data/segment_json.h"
#include "io/atomic_file.h"
#include "io/image_codec.h"
#include "io/json.h"
#include "media/read_clip.h"

namespace unigrpo::monitor {
namespace {

using data::SegmentKind;
namespace fs = std::filesystem;

class RowReader {
 public:
  RowReader(const nlohmann::json& json, fs::path folder, std::string where)
      : json_(json), folder_(std::move(folder)), where_(std::move(where)) {}

  StoredSample read() const {
    if (!json_.is_object()) fail("expected an object, found {}", json_.type_name());
    StoredSample stored;
    SampleRow& row = stored.row;
    row.sample.id = text(json_, "id");
    row.sample.prompt = text(json_, "prompt");
    if (json_.contains("metadata")) {
      const nlohmann::json& metadata = json_["metadata"];
      if (!metadata.is_object()) fail("metadata: expected an object, found {}", metadata.type_name());
      row.sample.metadata_json = metadata.dump();
    }
    row.sample.seed = json_.contains("seed") ? integer(json_, "seed") : 0;
    read_segments(stored);
    if (json_.contains("scores")) {
      for (const auto& [term, value] : object("scores").items())
        row.scores[term] = number_or_null("scores." + term, value);
    }
    if (json_.contains("reasons")) row.reasons = texts("reasons", object("reasons"));
    if (json_.contains("notes")) {
      for (const auto& [term, notes] : object("notes").items()) row.notes[term] = texts("notes." + term, notes);
    }
    if (json_.contains("reward")) row.reward = number_or_null("reward", json_["reward"]);
    if (json_.contains("advantage")) {
      for (const auto& [modality, value] : object("advantage").items()) {
        if (const auto number = number_or_null("advantage." + modality, value)) row.advantage[modality] = *number;
      }
    }
    return stored;
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw BadInput("{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
  }

  const nlohmann::json& need(const nlohmann::json& object, const char* key) const {
    if (!object.contains(key)) fail("missing key \"{}\"", key);
    return object[key];
  }
  std::string text(const nlohmann::json& object, const char* key) const {
    const nlohmann::json& value = need(object, key);
    if (!value.is_string()) fail("{}: expected a string, found {}", key, value.type_name());
    return value.get<std::string>();
  }
  int64_t integer(const nlohmann::json& object, const char* key) const {
    const nlohmann::json& value = need(object, key);
    const bool fits = value.is_number_integer() &&
                      !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
    if (!fits) fail("{}: expected a 64-bit integer, found {}", key, value.dump());
    return value.get<int64_t>();
  }
  const nlohmann::json& object(const char* key) const {
    if (!json_[key].is_object()) fail("{}: expected an object, found {}", key, json_[key].type_name());
    return json_[key];
  }
  std::map<std::string, std::string> texts(const std::string& key, const nlohmann::json& json) const {
    if (!json.is_object()) fail("{}: expected an object, found {}", key, json.type_name());
    std::map<std::string, std::string> texts;
    for (const auto& [name, value] : json.items()) {
      if (!value.is_string()) fail("{}.{}: expected a string, found {}", key, name, value.type_name());
      texts[name] = value.get<std::string>();
    }
    return texts;
  }
  std::optional<double> number_or_null(const std::string& key, const nlohmann::json& value) const {
    if (value.is_null()) return std::nullopt;
    if (!value.is_number()) fail("{}: expected a number or null, found {}", key, value.type_name());
    return value.get<double>();
  }

  void read_segments(StoredSample& stored) const {
    const nlohmann::json& segments = need(json_, "segments");
    if (!segments.is_array()) fail("segments: expected an array, found {}", segments.type_name());
    for (const nlohmann::json& json : segments) {
      data::SegmentFields fields = data::read_segment(json, where_);
      data::SampleSegment segment{.kind = fields.kind,
                                  .text = std::move(fields.text),
                                  .num_tokens = fields.num_tokens,
                                  .finished = fields.finished,
                                  .image = {}};
      fs::path path;
      if (segment.kind != SegmentKind::text) path = image_path(text(json, "path"));
      if (segment.kind == SegmentKind::image) {
        segment.image.width = side(json, "width");
        segment.image.height = side(json, "height");
      }
      stored.row.sample.segments.push_back(std::move(segment));
      stored.images.push_back(std::move(path));
    }
  }

  // 0 where the file does not say.
  int side(const nlohmann::json& json, const char* key) const {
    if (!json.contains(key)) return 0;
    const int64_t value = integer(json, key);
    if (value < 1 || value > 65535) fail("{}: expected 1..65535, found {}", key, value);
    return static_cast<int>(value);
  }

  fs::path image_path(const std::string& name) const {
    const fs::path path(name);
    const bool inside = !name.empty() && name.find('\0') == std::string::npos && path.is_relative() &&
                        std::find(path.begin(), path.end(), "..") == path.end();
    if (!inside) fail("path: \"{}\" must be a relative path inside the folder", name);
    return folder_ / path;
  }

  const nlohmann::json& json_;
  fs::path folder_;
  std::string where_;
};

}  // namespace

std::vector<StoredSample> list_samples(const fs::path& folder) {
  const fs::path file = folder / kSamplesFile;
  const std::string text = io::read_text_file(file);
  std::vector<StoredSample> samples;
  std::set<std::string> ids;
  size_t begin = 0;
  for (int64_t line = 1; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", file.string(), line);
    samples.push_back(RowReader(io::parse_json(row, where), folder, where).read());
    const std::string& id = samples.back().row.sample.id;
    if (!ids.insert(id).second) throw BadInput("{}: id \"{}\" stands in an earlier line", where, id);
  }
  return samples;
}

std::vector<SampleRow> read_samples(const fs::path& folder) {
  std::vector<SampleRow> rows;
  for (StoredSample& stored : list_samples(folder)) {
    auto& segments = stored.row.sample.segments;
    for (size_t i = 0; i < segments.size(); ++i) {
      if (segments[i].kind == SegmentKind::av) segments[i].clip = media::read_clip(stored.images[i]).clip;
      if (segments[i].kind != SegmentKind::image) continue;
      Image image = io::read_image(stored.images[i]);
      const Image& stated = segments[i].image;
      if ((stated.width != 0 && stated.width != image.width) || (stated.height != 0 && stated.height != image.height)) {
        throw BadInput("{}: the image is {}x{}, samples.jsonl says {}x{}", stored.images[i].string(), image.width,
                       image.height, stated.width, stated.height);
      }
      segments[i].image = std::move(image);
    }
    rows.push_back(std::move(stored.row));
  }
  return rows;
}

}  // namespace unigrpo::monitor
