#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "io/safetensors_header.h"
#include "io/safetensors_stream.h"

namespace unigrpo::io {
namespace {

constexpr size_t kPieceBytes = size_t{64} << 20;  // between looks at the stop token

std::string quote_json(const std::string& text, const std::filesystem::path& path) {
  if (!is_valid_utf8(text)) {
    throw RuntimeFailure("{}: cannot write {}: not UTF-8", path.string(), in_quotes(text));
  }
  return nlohmann::json(text).dump();
}

std::vector<const StreamedTensor*> in_file_order(std::span<const StreamedTensor> tensors) {
  std::vector<const StreamedTensor*> order;
  for (const StreamedTensor& tensor : tensors) order.push_back(&tensor);
  std::ranges::sort(order, [](const StreamedTensor* a, const StreamedTensor* b) {
    return std::tuple(dtype_size(b->dtype), std::string_view(a->name)) <
           std::tuple(dtype_size(a->dtype), std::string_view(b->name));
  });
  return order;
}

void check_names(const std::vector<const StreamedTensor*>& tensors, const std::filesystem::path& path) {
  std::vector<std::string_view> names;
  for (const StreamedTensor* tensor : tensors) names.push_back(tensor->name);
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  if (twice != names.end()) {
    throw RuntimeFailure("{}: tensor {} was to be written twice", path.string(), in_quotes(*twice));
  }
  if (std::ranges::binary_search(names, kMetadataKey)) {
    throw RuntimeFailure("{}: no tensor may be called {}", path.string(), kMetadataKey);
  }
}

std::string header_text(const std::vector<const StreamedTensor*>& tensors,
                        const std::map<std::string, std::string>& metadata, const std::filesystem::path& path) {
  std::vector<std::string> members;
  if (!metadata.empty()) {
    std::vector<std::string> pairs;
    for (const auto& [key, value] : metadata) {
      pairs.push_back(quote_json(key, path) + ":" + quote_json(value, path));
    }
    members.push_back(fmt::format("\"{}\":{{{}}}", kMetadataKey, join(pairs, ",")));
  }
  uint64_t offset = 0;
  for (const StreamedTensor* tensor : tensors) {
    const uint64_t end = offset + tensor->num_bytes();
    members.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                                  quote_json(tensor->name, path), dtype_name(tensor->dtype),
                                  fmt::join(tensor->shape, ","), offset, end));
    offset = end;
  }
  std::string text = fmt::format("{{{}}}", join(members, ","));
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begin at a multiple of 8
  if (text.size() > kMaxHeaderBytes) {
    throw RuntimeFailure("{}: header of {} bytes, the format allows {}", path.string(), text.size(), kMaxHeaderBytes);
  }
  return text;
}

void require_whole(const StreamedTensor& tensor, uint64_t num_bytes, const std::filesystem::path& path) {
  const bool counted = std::ranges::none_of(tensor.shape, [](int64_t d) { return d < 0; });
  const auto needed = counted ? tensor_bytes(tensor.shape, tensor.dtype) : std::nullopt;
  if (!needed || *needed != num_bytes) {
    throw RuntimeFailure("{}: tensor {} has {} bytes, which shape [{}] of {} does not take", path.string(),
                         in_quotes(tensor.name), num_bytes, fmt::join(tensor.shape, ", "), dtype_name(tensor.dtype));
  }
}

}  // namespace

uint64_t StreamedTensor::num_bytes() const { return tensor_bytes(shape, dtype).value_or(0); }

void write_streamed(const std::filesystem::path& path, std::span<const StreamedTensor> tensors,
                    const std::map<std::string, std::string>& metadata, StopToken stop) {
  const std::vector<const StreamedTensor*> order = in_file_order(tensors);
  check_names(order, path);
  const std::string header = header_text(order, metadata, path);
  std::array<std::byte, kLengthBytes> length;
  for (size_t i = 0; i < length.size(); ++i) {
    length[i] = static_cast<std::byte>(header.size() >> (8 * i) & 0xFF);
  }
  uint64_t num_bytes = length.size() + header.size();
  for (const StreamedTensor* tensor : order) num_bytes += tensor->num_bytes();

  AtomicFile file(path, num_bytes);
  file.append(length);
  file.append(header);
  for (const StreamedTensor* tensor : order) {
    uint64_t written = 0;
    tensor->write([&](std::span<const std::byte> bytes) {
      for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
        stop.throw_if_requested();
        file.append(bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at)));
      }
      written += bytes.size();
    });
    require_whole(*tensor, written, path);
  }
  stop.throw_if_requested();
  file.commit();
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata, StopToken stop) {
  std::vector<StreamedTensor> streamed;
  for (const TensorView& view : tensors) {
    streamed.push_back(
        {.name = view.name, .dtype = view.dtype, .shape = view.shape, .write = [&view](const StreamedTensor::Put& put) {
           put(view.bytes);
         }});
    require_whole(streamed.back(), view.bytes.size(), path);  // before anything is written
  }
  write_streamed(path, streamed, metadata, stop);
}

}  // namespace unigrpo::io
