#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "base/shared_memory.h"
#include "media/read_options.h"

namespace unigrpo::media {

/// What the reader and `unigrpo-media-worker` say to each other, in memory that both see: a request, which the answer
/// then takes the place of.
struct Request {
  std::string name;  // of the file, for errors
  ReadOptions options;
};
/// Either the result, or why there is none.
struct Response {
  std::optional<ReadResult> result;
  std::string refusal;  // BadInput's text
  std::string failure;  // another error's
};

inline constexpr int kMemoryDescriptor = 3;  // of the worker
inline constexpr int kFileDescriptor = 4;
inline constexpr int kWorkerLifeline = 5;

void write_request(SharedMemory& memory, const Request& request);
Request read_request(std::span<const std::byte> memory);
void write_response(SharedMemory& memory, const Response& response);
/// Takes nothing for granted: the worker may have been taken over by what it read. Throws BadInput.
Response read_response(std::span<const std::byte> memory);

}  // namespace unigrpo::media
