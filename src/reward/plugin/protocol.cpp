#include "reward/plugin/protocol.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/segment_json.h"

namespace unigrpo::reward::plugin {
namespace {

using Json = nlohmann::json;

Json parse(std::string_view text) {
  constexpr int kMaxDepth = 32;
  const auto shallow = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) throw BadInput("its JSON nests deeper than {}", kMaxDepth);
    return true;
  };
  // A program may send bytes that are no UTF-8: they cost it the character, not the sample its score.
  const std::string valid = is_valid_utf8(text) ? std::string() : valid_utf8(text);
  if (!valid.empty()) text = valid;
  try {
    Json json = Json::parse(text.begin(), text.end(), shallow);
    if (!json.is_object()) throw BadInput("its message is no JSON object");
    return json;
  } catch (const Json::exception& error) {
    throw BadInput("its message is not JSON: {}", valid_utf8(error.what()));
  }
}

/// Reads members of an object by type; what is missing has its default.
template <typename T>
T member(const Json& object, const char* key, T fallback) {
  const auto found = object.find(key);
  if (found == object.end()) return fallback;
  try {
    return found->get<T>();
  } catch (const Json::exception&) {
    throw BadInput("its message has the wrong type for \"{}\": {}", key, found->type_name());
  }
}

const Json& list(const Json& object, const char* key) {
  static const Json none = Json::array();
  const auto found = object.find(key);
  if (found == object.end()) return none;
  if (!found->is_array()) throw BadInput("its message has the wrong type for \"{}\": {}", key, found->type_name());
  return *found;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// ---- requests ----

Json image_json(const ImageView& image, size_t& offset) {
  Json json = {{"offset", offset}, {"width", image.width}, {"height", image.height}, {"row_stride", 3 * image.width}};
  offset = aligned(offset + size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height));
  return json;
}

void write_image(const ImageView& image, size_t& offset, std::span<std::byte> memory) {
  const size_t row = size_t{3} * static_cast<size_t>(image.width);
  const auto height = static_cast<size_t>(image.height);
  if (image.row_stride == static_cast<int64_t>(row)) {
    std::memcpy(memory.data() + offset, image.pixels, row * height);
  } else {
    for (size_t y = 0; y < height; ++y) {
      std::memcpy(memory.data() + offset + y * row, image.pixels + static_cast<int64_t>(y) * image.row_stride, row);
    }
  }
  offset = aligned(offset + row * height);
}

ImageView image_of(const Json& json, std::span<const std::byte> memory) {
  constexpr int32_t kMaxSide = 65535;
  ImageView image;
  const auto offset = member<uint64_t>(json, "offset", 0);
  image.width = member<int32_t>(json, "width", 0);
  image.height = member<int32_t>(json, "height", 0);
  image.row_stride = member<int64_t>(json, "row_stride", 0);
  const bool sized = image.width > 0 && image.height > 0 && image.width <= kMaxSide && image.height <= kMaxSide &&
                     image.row_stride >= 3 * int64_t{image.width} && image.row_stride <= 4 * int64_t{kMaxSide};
  if (!sized || offset > memory.size() ||
      memory.size() - offset < static_cast<uint64_t>(image.row_stride) * static_cast<uint64_t>(image.height)) {
    throw BadInput("its message has an image outside of the shared memory");
  }
  image.pixels = reinterpret_cast<const uint8_t*>(memory.data() + offset);
  return image;
}

SegmentView segment_of(const Json& json, std::span<const std::byte> memory) {
  data::SegmentFields fields = data::read_segment(json, "its message");
  SegmentView segment;
  if (fields.kind == data::SegmentKind::image) {
    segment.kind = SegmentView::Kind::image;
    segment.image = image_of(json, memory);
    return segment;
  }
  segment.text = std::move(fields.text);
  segment.num_tokens = fields.num_tokens;
  segment.finished = fields.finished;
  return segment;
}

// ---- answers ----

Verdict verdict_of(const Json& json, const Description& description) {
  Verdict verdict = open_verdict(description);
  const Json values = member<Json>(json, "values", Json::object());
  const Json reasons = member<Json>(json, "reasons", Json::object());
  const Json notes = member<Json>(json, "notes", Json::object());
  if (!values.is_object() || !reasons.is_object() || !notes.is_object()) {
    throw BadInput("its message has \"values\", \"reasons\" or \"notes\" that are no objects");
  }
  for (size_t k = 0; k < description.dimensions.size(); ++k) {
    const std::string& name = description.dimensions[k].name;
    const auto value = values.find(name);
    if (value != values.end() && !value->is_null()) {
      if (!value->is_number()) throw BadInput("its message has a {} as score", value->type_name());
      enter_value(verdict, description, k, value->get<double>());
    } else if (reasons.contains(name)) {
      enter_missing(verdict, k, member<std::string>(reasons, name.c_str(), ""));
    }
  }
  for (const auto& [name, unused] : values.items()) {
    const bool declared =
        std::ranges::any_of(description.dimensions, [&](const Dimension& d) { return d.name == name; });
    if (!declared) throw BadInput("its message scores the dimension {}, which is not declared", in_quotes(name));
  }
  for (const auto& [name, unused] : notes.items()) {
    enter_note(verdict, name, member<std::string>(notes, name.c_str(), ""));
  }
  return verdict;
}

}  // namespace

std::string encode_configuration(const Configuration& configuration) {
  return dump({{"protocol", kProtocolVersion},
               {"path", configuration.path},
               {"settings", Json::parse(configuration.settings_json)}});
}

Configuration decode_configuration(std::string_view json) {
  const Json all = parse(json);
  return {.path = member<std::string>(all, "path", ""),
          .settings_json = dump(member<Json>(all, "settings", Json::object()))};
}

std::string encode_description(const Description& description) {
  Json dimensions = Json::array();
  for (const Dimension& dimension : description.dimensions) {
    Json each = {{"name", dimension.name}};
    if (std::isfinite(dimension.min)) each["min"] = dimension.min;
    if (std::isfinite(dimension.max)) each["max"] = dimension.max;
    dimensions.push_back(std::move(each));
  }
  return dump({{"protocol", kProtocolVersion},
               {"name", description.name},
               {"batch_size", description.batch_size},
               {"threads", description.threads},
               {"wants_groups", description.wants_groups},
               {"dimensions", std::move(dimensions)}});
}

Description decode_description(std::string_view json) {
  const Json all = parse(json);
  if (const int version = member<int>(all, "protocol", 0); version != kProtocolVersion) {
    throw BadInput("it speaks version {} of the protocol, expected {}", version, kProtocolVersion);
  }
  Description out;
  out.name = member<std::string>(all, "name", "");
  out.batch_size = member<int64_t>(all, "batch_size", 1);
  out.threads = member<int64_t>(all, "threads", 1);
  out.wants_groups = member<bool>(all, "wants_groups", false);
  const Json& dimensions = list(all, "dimensions");
  if (!dimensions.empty()) out.dimensions.clear();
  for (const Json& each : dimensions) {
    Dimension dimension;
    dimension.name = member<std::string>(each, "name", "");
    dimension.min = member<double>(each, "min", dimension.min);
    dimension.max = member<double>(each, "max", dimension.max);
    out.dimensions.push_back(std::move(dimension));
  }
  check_description(out);
  return out;
}

RequestPlan plan_request(std::span<const SampleView> samples) {
  size_t offset = 0;
  Json all = Json::array();
  for (const SampleView& sample : samples) {
    Json segments = Json::array(), images = Json::array();
    for (const SegmentView& segment : sample.segments) {
      if (segment.kind == SegmentView::Kind::image) {
        segments.emplace_back(data::image_segment_json(image_json(segment.image, offset)));
      } else {
        segments.emplace_back(data::text_segment_json(segment.text, segment.num_tokens, segment.finished));
      }
    }
    for (const ImageView& image : sample.images) images.push_back(image_json(image, offset));
    all.push_back({{"id", sample.id},
                   {"prompt", sample.prompt},
                   {"metadata_json", sample.metadata_json},
                   {"group", sample.group},
                   {"segments", std::move(segments)},
                   {"images", std::move(images)}});
  }
  RequestPlan plan = {.json = dump({{"samples", std::move(all)}}), .json_offset = offset, .num_bytes = 0};
  plan.num_bytes = aligned(offset + plan.json.size()) + answer_room(samples.size());
  return plan;
}

void write_request(const RequestPlan& plan, std::span<const SampleView> samples, std::span<std::byte> memory) {
  size_t offset = 0;
  for (const SampleView& sample : samples) {
    for (const SegmentView& segment : sample.segments) {
      if (segment.kind == SegmentView::Kind::image) write_image(segment.image, offset, memory);
    }
    for (const ImageView& image : sample.images) write_image(image, offset, memory);
  }
  std::memcpy(memory.data() + plan.json_offset, plan.json.data(), plan.json.size());
}

std::vector<SampleView> decode_request(std::string_view json, std::span<const std::byte> memory) {
  const Json all = parse(json);
  std::vector<SampleView> samples;
  for (const Json& each : list(all, "samples")) {
    SampleView sample;
    sample.id = member<std::string>(each, "id", "");
    sample.prompt = member<std::string>(each, "prompt", "");
    sample.metadata_json = member<std::string>(each, "metadata_json", "{}");
    sample.group = member<int64_t>(each, "group", 0);
    for (const Json& segment : list(each, "segments")) sample.segments.push_back(segment_of(segment, memory));
    for (const Json& image : list(each, "images")) sample.images.push_back(image_of(image, memory));
    samples.push_back(std::move(sample));
  }
  return samples;
}

std::string encode_answer(const Answer& answer, const Description& description) {
  Json scores = Json::array();
  for (const Verdict& verdict : answer.verdicts) {
    Json values = Json::object(), reasons = Json::object();
    for (size_t k = 0; k < description.dimensions.size(); ++k) {
      const std::string& name = description.dimensions[k].name;
      values[name] = verdict.values[k] ? Json(*verdict.values[k]) : Json(nullptr);
      if (!verdict.values[k]) reasons[name] = verdict.reasons[k];
    }
    scores.push_back({{"values", std::move(values)}, {"reasons", std::move(reasons)}, {"notes", verdict.notes}});
  }
  return dump({{"scores", std::move(scores)}});
}

Answer decode_answer(std::string_view json, const Description& description, size_t num_samples) {
  const Json all = parse(json);
  const Json& scores = list(all, "scores");
  if (scores.size() != num_samples) throw BadInput("gave {} scores for {} samples", scores.size(), num_samples);
  Answer answer = {.succeeded = true, .error = "", .verdicts = {}};
  for (const Json& each : scores) {
    if (!each.is_object()) throw BadInput("its message has a {} in \"scores\"", each.type_name());
    answer.verdicts.push_back(verdict_of(each, description));
  }
  return answer;
}

std::string encode_failure(std::string_view text) {
  constexpr size_t kMaxBytes = 4096;
  return dump({{"error", valid_utf8(text, kMaxBytes)}});
}

std::string decode_failure(std::string_view json) {
  const auto text = member<std::string>(parse(json), "error", "");
  return text.empty() ? "failed without saying why" : text;
}

std::string_view message_of(const Frame& frame, std::span<const std::byte> memory) {
  if (frame.offset > memory.size() || memory.size() - frame.offset < frame.num_bytes) {
    throw BadInput("its message lies outside of the shared memory");
  }
  return {reinterpret_cast<const char*>(memory.data() + frame.offset), frame.num_bytes};
}

}  // namespace unigrpo::reward::plugin
