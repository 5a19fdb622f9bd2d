#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "data/segment_kind.h"

namespace unigrpo::data {

// A segment as JSON, the same in samples.jsonl, in what judges and reward workers are sent, and in SFT rows:
//   {"type": "text", "text", "num_tokens", "finished"}   (SFT rows: without the last two)
//   {"type": "image", ...}                               and members that say where the pixels are
//   {"type": "av", "path", "frames", "fps", "sample_rate", "seconds"}   a clip (samples.jsonl alone)

nlohmann::ordered_json text_segment_json(std::string_view text);
nlohmann::ordered_json text_segment_json(std::string_view text, int64_t num_tokens, bool finished);
/// `pixels`: an object of those members.
nlohmann::ordered_json image_segment_json(const nlohmann::ordered_json& pixels);

/// `members`: an object of the clip's.
nlohmann::ordered_json av_segment_json(const nlohmann::ordered_json& members);

struct SegmentFields {
  SegmentKind kind = SegmentKind::text;
  std::string text = {};   // text segments
  int64_t num_tokens = 0;  // text segments; 0 where it does not say
  bool finished = true;    // text segments; true where it does not say
};
/// Throws BadInput `where: ...`; an image's and a clip's other members are the reader's to read.
SegmentFields read_segment(const nlohmann::json& json, std::string_view where);

}  // namespace unigrpo::data
