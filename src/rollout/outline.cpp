#include "rollout/outline.h"

#include <ATen/ATen.h>

#include "data/sample_bytes.h"

namespace unigrpo::rollout {
namespace {

std::vector<float> values_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  const at::Tensor flat = tensor.to(at::kCPU, at::kFloat).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

}  // namespace

std::string to_outline(const Trajectory& trajectory) {
  ByteWriter bytes;
  bytes(trajectory.prompt_index, trajectory.sample_index, trajectory.segments, trajectory.texts.size(),
        trajectory.flows.size());
  for (const TextSegment& text : trajectory.texts) {
    bytes(text.ids, values_of(text.entropy), text.finished, text.teacher_forced);
  }
  for (const FlowSegment& flow : trajectory.flows) {
    bytes(flow.timesteps, flow.window.first, flow.window.last, flow.fps, flow.streams.size());
    for (const FlowStream& stream : flow.streams) {
      const flow::SdeWindow own = flow.window_of(stream);
      bytes(stream.modality, stream.grid.height, stream.grid.width, stream.grid.frames, own.first, own.last);
    }
  }
  data::Sample sample = trajectory.sample;
  for (data::SampleSegment& segment : sample.segments) segment.image = {}, segment.clip = {};
  bytes(sample);
  return bytes.take();
}

Trajectory from_outline(std::string_view from) {
  ByteReader bytes(from);
  Trajectory trajectory{.is_outline = true, .prefix = {}, .segments = {}, .texts = {}, .flows = {}, .sample = {}};
  size_t num_texts = 0, num_flows = 0;
  bytes(trajectory.prompt_index, trajectory.sample_index, trajectory.segments, num_texts, num_flows);
  for (size_t i = 0; i < num_texts; ++i) {
    TextSegment& text = trajectory.texts.emplace_back();
    std::vector<float> entropy;
    bytes(text.ids, entropy, text.finished, text.teacher_forced);
    text.entropy = at::tensor(entropy, at::kFloat);
  }
  for (size_t i = 0; i < num_flows; ++i) {
    FlowSegment& flow = trajectory.flows.emplace_back();
    size_t num_streams = 0;
    bytes(flow.timesteps, flow.window.first, flow.window.last, flow.fps, num_streams);
    for (size_t k = 0; k < num_streams; ++k) {
      FlowStream& stream = flow.streams.emplace_back();
      flow::SdeWindow own;
      bytes(stream.modality, stream.grid.height, stream.grid.width, stream.grid.frames, own.first, own.last);
      if (own.first != flow.window.first || own.last != flow.window.last) stream.window = own;
    }
  }
  bytes(trajectory.sample);
  return trajectory;
}

}  // namespace unigrpo::rollout
