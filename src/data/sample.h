#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/segment_kind.h"
#include "io/image.h"
#include "media/clip.h"

namespace unigrpo::data {

/// One piece of an episode as a reward sees it.
struct SampleSegment {
  SegmentKind kind = SegmentKind::text;
  std::string text;        // text segments: without special tokens
  int64_t num_tokens = 0;  // text segments: sampled tokens, the end token included
  bool finished = true;    // text segments: false where the length limit truncated it
  Image image;             // image segments
  media::Clip clip = {};   // av segments
};

/// One finished episode, ready to be judged, shown and written to samples.jsonl.
struct Sample {
  std::string id;  // "<prompt id>/<sample index>"
  std::string prompt;
  std::string metadata_json = "{}";
  std::vector<std::shared_ptr<const Image>> images;  // the prompt's own, shared by its samples
  std::vector<SampleSegment> segments;
  int64_t seed = 0;
  int64_t group = 0;  // episodes of one prompt that are compared with each other share it

  const Image* last_image() const {
    for (auto segment = segments.rbegin(); segment != segments.rend(); ++segment) {
      if (segment->kind == SegmentKind::image) return &segment->image;
    }
    return nullptr;
  }
  const media::Clip* last_clip() const {
    for (auto segment = segments.rbegin(); segment != segments.rend(); ++segment) {
      if (segment->kind == SegmentKind::av) return &segment->clip;
    }
    return nullptr;
  }
};

}  // namespace unigrpo::data
