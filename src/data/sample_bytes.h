#pragma once

#include <memory>

#include "base/bytes.h"
#include "data/sample.h"

namespace unigrpo {

template <typename Bytes, SameAs<Image> T>
void fields(Bytes& bytes, T& image) {
  bytes(image.width, image.height, image.pixels);
}

}  // namespace unigrpo

namespace unigrpo::media {

template <typename Bytes, SameAs<Clip> T>
void fields(Bytes& bytes, T& clip) {
  bytes(clip.frames.count, clip.frames.height, clip.frames.width, clip.frames.pixels, clip.fps.num, clip.fps.den,
        clip.sound.channels, clip.sound.rate, clip.sound.samples);
}

}  // namespace unigrpo::media

namespace unigrpo::data {

template <typename Bytes, SameAs<SampleSegment> T>
void fields(Bytes& bytes, T& segment) {
  bytes(segment.kind, segment.text, segment.num_tokens, segment.finished, segment.image, segment.clip);
}

/// All but the prompt's own images, which whoever shows or judges a sample reads from the prompt.
template <typename Bytes, SameAs<Sample> T>
void fields(Bytes& bytes, T& sample) {
  bytes(sample.id, sample.prompt, sample.metadata_json, sample.segments, sample.seed, sample.group);
}

}  // namespace unigrpo::data
