#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "io/safetensors_header.h"

namespace unigrpo::io {
namespace {

constexpr size_t kPieceBytes = size_t{64} << 20;  // between looks at the stop token

std::string quote_json(const std::string& text, const std::filesystem::path& path) {
  if (!is_valid_utf8(text)) {
    throw RuntimeFailure("{}: cannot write {}: not UTF-8", path.string(), in_quotes(text));
  }
  return nlohmann::json(text).dump();
}

std::vector<const TensorView*> in_file_order(std::span<const TensorView> tensors) {
  std::vector<const TensorView*> order;
  for (const TensorView& view : tensors) order.push_back(&view);
  std::ranges::sort(order, [](const TensorView* a, const TensorView* b) {
    return std::tuple(dtype_size(b->dtype), std::string_view(a->name)) <
           std::tuple(dtype_size(a->dtype), std::string_view(b->name));
  });
  return order;
}

void check_names(const std::vector<const TensorView*>& tensors, const std::filesystem::path& path) {
  std::vector<std::string_view> names;
  for (const TensorView* view : tensors) names.push_back(view->name);
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  if (twice != names.end()) {
    throw RuntimeFailure("{}: tensor {} was to be written twice", path.string(), in_quotes(*twice));
  }
  if (std::ranges::binary_search(names, kMetadataKey)) {
    throw RuntimeFailure("{}: no tensor may be called {}", path.string(), kMetadataKey);
  }
}

std::string header_text(const std::vector<const TensorView*>& tensors,
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
  for (const TensorView* view : tensors) {
    const bool counted = std::ranges::none_of(view->shape, [](int64_t d) { return d < 0; });
    const auto needed = counted ? tensor_bytes(view->shape, view->dtype) : std::nullopt;
    if (!needed || *needed != view->bytes.size()) {
      throw RuntimeFailure("{}: tensor {} has {} bytes, which shape [{}] of {} does not take", path.string(),
                           in_quotes(view->name), view->bytes.size(), fmt::join(view->shape, ", "),
                           dtype_name(view->dtype));
    }
    const uint64_t end = offset + view->bytes.size();
    members.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                                  quote_json(view->name, path), dtype_name(view->dtype), fmt::join(view->shape, ","),
                                  offset, end));
    offset = end;
  }
  std::string text = fmt::format("{{{}}}", join(members, ","));
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begin at a multiple of 8
  if (text.size() > kMaxHeaderBytes) {
    throw RuntimeFailure("{}: header of {} bytes, the format allows {}", path.string(), text.size(), kMaxHeaderBytes);
  }
  return text;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata, StopToken stop) {
  const std::vector<const TensorView*> order = in_file_order(tensors);
  check_names(order, path);
  const std::string header = header_text(order, metadata, path);
  std::array<std::byte, kLengthBytes> length;
  for (size_t i = 0; i < length.size(); ++i) {
    length[i] = static_cast<std::byte>(header.size() >> (8 * i) & 0xFF);
  }
  uint64_t num_bytes = length.size() + header.size();
  for (const TensorView* view : order) num_bytes += view->bytes.size();

  AtomicFile file(path, num_bytes);
  file.append(length);
  file.append(header);
  for (const TensorView* view : order) {
    for (size_t at = 0; at < view->bytes.size(); at += kPieceBytes) {
      stop.throw_if_requested();
      file.append(view->bytes.subspan(at, std::min(kPieceBytes, view->bytes.size() - at)));
    }
  }
  stop.throw_if_requested();
  file.commit();
}

}  // namespace unigrpo::io
