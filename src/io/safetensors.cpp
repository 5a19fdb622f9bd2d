#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "io/mapped_file.h"
#include "io/safetensors_header.h"

namespace unigrpo::io {
namespace {

uint64_t read_length(std::span<const std::byte> file, const std::string& where) {
  if (file.size() < kLengthBytes) {
    throw BadInput("{}: file of {} bytes is too short for the 8 bytes of the header's length", where, file.size());
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  }
  if (length == 0) throw BadInput("{}: length is 0, a JSON object was expected", where);
  if (length > kMaxHeaderBytes) {
    throw BadInput("{}: length {} is over the limit of {} bytes; not a safetensors file?", where, length,
                   kMaxHeaderBytes);
  }
  if (length > file.size() - kLengthBytes) {
    throw BadInput("{}: length {} reaches past the end of the file of {} bytes; truncated?", where, length,
                   file.size());
  }
  return length;
}

// Each tensor's range must be as long as its shape says.
void check_sizes(const Header& header, const std::string& where) {
  for (const auto& [view, begin, end] : header.entries) {
    if (begin > end) {
      throw BadInput("{}: tensor {}: data_offsets [{}, {}] end before they begin", where, in_quotes(view.name), begin,
                     end);
    }
    const auto needed = tensor_bytes(view.shape, view.dtype);
    if (!needed) {
      throw BadInput("{}: tensor {}: shape [{}] of dtype {} overflows 64 bits", where, in_quotes(view.name),
                     fmt::join(view.shape, ", "), dtype_name(view.dtype));
    }
    if (*needed != end - begin) {
      throw BadInput("{}: tensor {}: shape [{}] of dtype {} takes {} bytes, data_offsets [{}, {}] hold {}", where,
                     in_quotes(view.name), fmt::join(view.shape, ", "), dtype_name(view.dtype), *needed, begin, end,
                     end - begin);
    }
  }
}

// Together the ranges must cover the buffer once: no hole, no overlap, no rest.
void check_layout(const Header& header, uint64_t buffer_bytes, const std::string& where) {
  std::vector<const HeaderEntry*> sorted;
  sorted.reserve(header.entries.size());
  for (const HeaderEntry& entry : header.entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const HeaderEntry* a, const HeaderEntry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  uint64_t covered = 0;
  const HeaderEntry* previous = nullptr;
  for (const HeaderEntry* entry : sorted) {
    const std::string name = in_quotes(entry->view.name);
    if (entry->begin > covered) {
      throw BadInput(
          "{}: tensor {}: data_offsets [{}, {}] leave a hole in the buffer, which is "
          "covered up to byte {}",
          where, name, entry->begin, entry->end, covered);
    }
    if (entry->begin < covered) {
      throw BadInput("{}: tensor {}: data_offsets [{}, {}] overlap those of tensor {}, [{}, {}]", where, name,
                     entry->begin, entry->end, in_quotes(previous->view.name), previous->begin, previous->end);
    }
    if (entry->end > buffer_bytes) {
      throw BadInput(
          "{}: tensor {}: data_offsets [{}, {}] reach past the end of the file, whose "
          "data buffer has size {}; truncated?",
          where, name, entry->begin, entry->end, buffer_bytes);
    }
    covered = entry->end;
    previous = entry;
  }
  if (covered < buffer_bytes) {
    throw BadInput("{}: data buffer has size {}, tensors cover {}: {} trailing bytes belong to none", where,
                   buffer_bytes, covered, buffer_bytes - covered);
  }
}

}  // namespace

size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::boolean:
    case DType::u8:
    case DType::i8:
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::f8_e8m0:
    case DType::f8_e4m3fnuz:
    case DType::f8_e5m2fnuz:
      return 1;
    case DType::u16:
    case DType::i16:
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::u32:
    case DType::i32:
    case DType::f32:
      return 4;
    case DType::u64:
    case DType::i64:
    case DType::f64:
    case DType::c64:
      return 8;
  }
  throw RuntimeFailure("dtype {} has no size", static_cast<int>(dtype));
}

std::string_view dtype_name(DType dtype) { return enum_name(dtype); }

struct SafetensorsFile::Mapping {
  explicit Mapping(const std::filesystem::path& path) : file(path) {}
  MappedFile file;
};

Contents read_contents(std::span<const std::byte> file, const std::string& where) {
  const uint64_t length = read_length(file, where);
  const std::span<const std::byte> text = file.subspan(kLengthBytes, length);
  const std::span<const std::byte> buffer = file.subspan(kLengthBytes + length);
  Header header = read_header({reinterpret_cast<const char*>(text.data()), text.size()}, where);
  check_sizes(header, where);
  check_layout(header, buffer.size(), where);

  Contents contents{.tensors = {}, .metadata = std::move(header.metadata)};
  contents.tensors.reserve(header.entries.size());
  for (HeaderEntry& entry : header.entries) {
    entry.view.bytes = buffer.subspan(entry.begin, entry.end - entry.begin);
    contents.tensors.push_back(std::move(entry.view));
  }
  std::ranges::sort(contents.tensors, {}, &TensorView::name);
  return contents;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), mapping_(std::make_unique<Mapping>(path)) {
  Contents contents = read_contents(mapping_->file.bytes(), path.string() + ": header");
  tensors_ = std::move(contents.tensors);
  metadata_ = std::move(contents.metadata);
}

SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found =
      std::ranges::lower_bound(tensors_, name, {}, [](const TensorView& view) { return std::string_view(view.name); });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace unigrpo::io
