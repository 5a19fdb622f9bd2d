#include "data/segment_json.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace unigrpo::data {
namespace {

std::string string_in(const nlohmann::json& json, const char* key, std::string_view where) {
  const auto found = json.find(key);
  if (found == json.end()) throw BadInput("{}: missing key \"{}\"", where, key);
  if (!found->is_string()) throw BadInput("{}: {}: expected a string, found {}", where, key, found->type_name());
  return found->get<std::string>();
}

}  // namespace

nlohmann::ordered_json text_segment_json(std::string_view text) {
  return {{"type", enum_name(SegmentKind::text)}, {"text", text}};
}

nlohmann::ordered_json text_segment_json(std::string_view text, int64_t num_tokens, bool finished) {
  nlohmann::ordered_json json = text_segment_json(text);
  json["num_tokens"] = num_tokens;
  json["finished"] = finished;
  return json;
}

nlohmann::ordered_json image_segment_json(const nlohmann::ordered_json& pixels) {
  nlohmann::ordered_json json = {{"type", enum_name(SegmentKind::image)}};
  json.update(pixels);
  return json;
}

nlohmann::ordered_json av_segment_json(const nlohmann::ordered_json& members) {
  nlohmann::ordered_json json = {{"type", enum_name(SegmentKind::av)}};
  json.update(members);
  return json;
}

SegmentFields read_segment(const nlohmann::json& json, std::string_view where) {
  if (!json.is_object()) throw BadInput("{}: segments: expected objects, found {}", where, json.type_name());
  const std::string type = string_in(json, "type", where);
  const auto kind = enum_value<SegmentKind>(type);
  if (!kind) throw BadInput("{}: segments: type must be \"text\", \"image\" or \"av\", found \"{}\"", where, type);
  SegmentFields fields = {.kind = *kind};
  if (*kind != SegmentKind::text) return fields;
  fields.text = string_in(json, "text", where);
  if (const auto count = json.find("num_tokens"); count != json.end()) {
    const bool fits = count->is_number_integer() &&
                      !(count->is_number_unsigned() && count->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
    if (!fits) throw BadInput("{}: num_tokens: expected a 64-bit integer, found {}", where, count->dump());
    fields.num_tokens = count->get<int64_t>();
  }
  if (const auto finished = json.find("finished"); finished != json.end()) {
    if (!finished->is_boolean())
      throw BadInput("{}: finished: expected true or false, found {}", where, finished->dump());
    fields.finished = finished->get<bool>();
  }
  return fields;
}

}  // namespace unigrpo::data
