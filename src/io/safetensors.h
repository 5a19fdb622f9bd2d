#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/enum_names.h"
#include "base/signals.h"

namespace unigrpo::io {

/// Element types of the safetensors format that we know, spelled as in a header. The packed ones
/// below one byte (F4, F6_E2M3, F6_E3M2) are refused by name.
UNIGRPO_ENUM(DType, UNIGRPO_SPELLED(boolean, "BOOL"), UNIGRPO_SPELLED(u8, "U8"), UNIGRPO_SPELLED(i8, "I8"),
             UNIGRPO_SPELLED(u16, "U16"), UNIGRPO_SPELLED(i16, "I16"), UNIGRPO_SPELLED(f16, "F16"),
             UNIGRPO_SPELLED(bf16, "BF16"), UNIGRPO_SPELLED(u32, "U32"), UNIGRPO_SPELLED(i32, "I32"),
             UNIGRPO_SPELLED(f32, "F32"), UNIGRPO_SPELLED(u64, "U64"), UNIGRPO_SPELLED(i64, "I64"),
             UNIGRPO_SPELLED(f64, "F64"), UNIGRPO_SPELLED(f8_e4m3, "F8_E4M3"), UNIGRPO_SPELLED(f8_e5m2, "F8_E5M2"),
             UNIGRPO_SPELLED(f8_e8m0, "F8_E8M0"), UNIGRPO_SPELLED(f8_e4m3fnuz, "F8_E4M3FNUZ"),
             UNIGRPO_SPELLED(f8_e5m2fnuz, "F8_E5M2FNUZ"), UNIGRPO_SPELLED(c64, "C64"));

size_t dtype_size(DType dtype);            // bytes an element
std::string_view dtype_name(DType dtype);  // "F32", "BF16", "I64", ...

/// A named tensor whose bytes (row-major, little-endian) belong to somebody else. Bytes from a file
/// need not be aligned to the element size: copy them, do not cast the pointer.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// One opened .safetensors file, memory-mapped read-only; views live as long as this object.
///
/// Opening checks the whole header against the format's rules (see docs/FORMATS.md).
/// Throws BadInput naming the file and what is wrong with it.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  const std::filesystem::path& path() const { return path_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }  // in order of name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorView* find(std::string_view name) const;  // nullptr where absent

 private:
  struct Mapping;
  std::filesystem::path path_;
  std::unique_ptr<Mapping> mapping_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Writes tensors to `path` atomically: temporary file in the same folder, fsync, rename, fsync of
/// the folder. The file is a function of the arguments alone, whatever the order of `tensors`:
/// wider elements first, then by name, so that every tensor is aligned to its element size (at most
/// 8) without the gaps that the format forbids. Throws RuntimeFailure where the disk refuses, or
/// for a name twice, not UTF-8 or reserved, or bytes that do not fit shape and dtype; Interrupted
/// where `stop` came meanwhile.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata = {}, StopToken stop = {});

}  // namespace unigrpo::io
