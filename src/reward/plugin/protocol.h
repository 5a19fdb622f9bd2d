#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reward/plugin/judge.h"

namespace unigrpo::reward::plugin {

// The conversation with a reward worker, as docs/REWARD_PROTOCOL.md tells it to other languages: frames of 24 bytes
// over a socket say where in the shared memory a message lies; messages are JSON, beside the pixels that they point to.

inline constexpr int kProtocolVersion = 1;
inline constexpr int kControlDescriptor = 3;  // in the worker
inline constexpr int kMemoryDescriptor = 4;
inline constexpr int kCopyDescriptor = 5;  // ours alone: the plugin's file as it was when the run began
inline std::string copy_path() { return "/proc/self/fd/" + std::to_string(kCopyDescriptor); }
inline constexpr size_t kAlignment = 64;  // of images and messages in the shared memory
inline constexpr size_t kMaxAnswerBytes = size_t{16} << 20;
/// Room for the answer that is kept free behind a request.
constexpr size_t answer_room(size_t num_samples) { return std::min(kMaxAnswerBytes, ((num_samples + 16) << 16)); }
constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

enum class FrameKind : uint32_t { configure = 1, ready = 2, score = 3, scores = 4, failed = 5 };

/// Little-endian in this order, 24 bytes.
struct Frame {
  FrameKind kind = FrameKind::failed;
  uint32_t sequence = 0;  // an answer has its request's
  uint64_t offset = 0;    // of the message in the shared memory
  uint64_t num_bytes = 0;
};
static_assert(sizeof(Frame) == 24);

/// What the worker is to be.
struct Configuration {
  std::string path;
  std::string settings_json = "{}";
};
std::string encode_configuration(const Configuration& configuration);
Configuration decode_configuration(std::string_view json);

std::string encode_description(const Description& description);
/// Throws BadInput for a description that is not one.
Description decode_description(std::string_view json);

/// Where a request's parts go: pixels first, each image aligned, then the message.
struct RequestPlan {
  std::string json;
  size_t json_offset = 0;
  size_t num_bytes = 0;  // of all, with room for the answer
};
RequestPlan plan_request(std::span<const SampleView> samples);
/// Copies pixels and message to memory of at least plan.num_bytes.
void write_request(const RequestPlan& plan, std::span<const SampleView> samples, std::span<std::byte> memory);
/// Samples whose pixels lie in `memory`. Throws BadInput for a request that is not one, or points outside of it.
std::vector<SampleView> decode_request(std::string_view json, std::span<const std::byte> memory);

std::string encode_answer(const Answer& answer, const Description& description);
/// Throws BadInput for an answer that is not one, wrong number of scores included; values are checked by enter_value.
Answer decode_answer(std::string_view json, const Description& description, size_t num_samples);

/// `{"error": text}`, cut to fit.
std::string encode_failure(std::string_view text);
std::string decode_failure(std::string_view json);

/// The bytes of a message. Throws BadInput where the frame points outside of the memory.
std::string_view message_of(const Frame& frame, std::span<const std::byte> memory);

}  // namespace unigrpo::reward::plugin
