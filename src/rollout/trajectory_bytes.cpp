#include "rollout/trajectory_bytes.h"

#include <ATen/ATen.h>

#include <map>
#include <utility>

#include "base/bytes.h"

namespace unigrpo {

// Found by their first argument.

static void fields(ByteWriter& bytes, const at::Tensor& tensor) {
  bytes(tensor.defined());
  if (!tensor.defined()) return;
  const at::Tensor here = tensor.detach().to(at::kCPU).contiguous();
  bytes(here.scalar_type(), here.sizes().vec(),
        std::string(static_cast<const char*>(here.const_data_ptr()), here.nbytes()));
}

static void fields(ByteReader& bytes, at::Tensor& tensor) {
  bool defined = false;
  bytes(defined);
  tensor = at::Tensor();
  if (!defined) return;
  at::ScalarType type = at::kFloat;
  std::vector<int64_t> sizes;
  std::string content;
  bytes(type, sizes, content);
  tensor = at::empty(sizes, type);
  if (content.size() != tensor.nbytes())
    throw RuntimeFailure("{} bytes of a tensor of {}", content.size(), tensor.nbytes());
  if (!content.empty()) std::memcpy(tensor.mutable_data_ptr(), content.data(), content.size());
}

template <typename Bytes, SameAs<policy::LatentGrid> T>
static void fields(Bytes& bytes, T& grid) {
  bytes(grid.height, grid.width, grid.frames);
}

template <typename Bytes, SameAs<policy::ClipShape> T>
static void fields(Bytes& bytes, T& shape) {
  bytes(shape.video, shape.audio, shape.fps);
}

template <typename Bytes, SameAs<policy::TextBlock> T>
static void fields(Bytes& bytes, T& text) {
  bytes(text.ids);
}

template <typename Bytes, SameAs<policy::LatentBlock> T>
static void fields(Bytes& bytes, T& image) {
  bytes(image.latents, image.grid);
}

template <typename Bytes, SameAs<policy::VisionBlock> T>
static void fields(Bytes& bytes, T& image) {
  bytes(image.pixels, image.grid);
}

template <typename Bytes, SameAs<policy::NoisyBlock> T>
static void fields(Bytes& bytes, T& states) {
  bytes(states.latents, states.t, states.grid);
}

template <typename Bytes, SameAs<policy::EncodedBlock> T>
static void fields(Bytes& bytes, T& text) {
  bytes(text.text, text.mask);
}

template <typename Bytes, SameAs<policy::NoisyClip> T>
static void fields(Bytes& bytes, T& states) {
  bytes(states.latents, states.t, states.shape);
}

static void fields(ByteWriter& bytes, const policy::Block& block) {
  bytes(static_cast<uint64_t>(block.index()));
  std::visit([&](const auto& one) { bytes(one); }, block);
}

static void fields(ByteReader& bytes, policy::Block& block) {
  uint64_t index = 0;
  bytes(index);
  if (index == 1) block = policy::LatentBlock{};
  if (index == 2) block = policy::VisionBlock{};
  if (index == 3) block = policy::NoisyBlock{};
  if (index == 4) block = policy::EncodedBlock{};
  if (index == 5) block = policy::NoisyClip{};
  std::visit([&](auto& one) { bytes(one); }, block);
}

template <typename Bytes, SameAs<policy::ContextDigest> T>
static void fields(Bytes& bytes, T& digest) {
  bytes(digest.token_ids, digest.position_ids, digest.mask, digest.latents, digest.pixels);
}

template <typename Bytes, SameAs<rollout::Fingerprint> T>
static void fields(Bytes& bytes, T& fingerprint) {
  bytes(fingerprint.context, fingerprint.actions, fingerprint.time_grid, fingerprint.sampling,
        fingerprint.weights_version, fingerprint.adapter_state);
}

namespace rollout {
namespace {

/// What an outline leaves out of a trajectory, its prefix apart.
template <typename Bytes, SameAs<Trajectory> T>
void rest_of(Bytes& bytes, T& trajectory) {
  for (auto& text : trajectory.texts) bytes(text.log_probs, text.fingerprint);
  for (auto& flow : trajectory.flows) {
    for (auto& stream : flow.streams) bytes(stream.latents, stream.velocities, stream.log_probs);
    bytes(flow.context, flow.fingerprint);
  }
}

}  // namespace

std::string to_parcel(std::span<const Trajectory> trajectories, std::span<const int64_t> rows,
                      uint64_t weights_version) {
  ByteWriter bytes;
  std::map<int64_t, std::vector<policy::Block>> prefixes;  // once a prompt
  for (const int64_t row : rows) prefixes.try_emplace(trajectories[row].prompt_index, trajectories[row].prefix);
  bytes(weights_version, prefixes, std::vector<int64_t>(rows.begin(), rows.end()));
  for (const int64_t row : rows) rest_of(bytes, trajectories[row]);
  return bytes.take();
}

void open_parcel(std::string_view from, uint64_t weights_version, std::span<Trajectory> trajectories) {
  ByteReader bytes(from);
  uint64_t version_there = 0;
  std::map<int64_t, std::vector<policy::Block>> prefixes;
  std::vector<int64_t> rows;
  bytes(version_there, prefixes, rows);
  for (const int64_t row : rows) {
    Trajectory& trajectory = trajectories[static_cast<size_t>(row)];
    rest_of(bytes, trajectory);
    trajectory.is_outline = false;
    trajectory.prefix = prefixes.at(trajectory.prompt_index);
    const auto translate = [&](Fingerprint& fingerprint) {
      if (fingerprint.weights_version == version_there) fingerprint.weights_version = weights_version;
    };
    for (TextSegment& text : trajectory.texts) translate(text.fingerprint);
    for (FlowSegment& flow : trajectory.flows) translate(flow.fingerprint);
  }
}

}  // namespace rollout
}  // namespace unigrpo
