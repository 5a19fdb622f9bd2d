#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/signals.h"
#include "io/safetensors.h"

namespace unigrpo::io {

/// A named tensor whose bytes are made when the file comes to them.
struct StreamedTensor {
  using Put = std::function<void(std::span<const std::byte> bytes)>;

  std::string name = {};
  DType dtype = DType::f32;
  std::vector<int64_t> shape = {};
  std::function<void(const Put& put)> write = {};  // hands all of its bytes on, in order

  uint64_t num_bytes() const;
};

/// The same file as that of write_safetensors() with all tensors in memory. Throws RuntimeFailure also where a tensor
/// hands on more or fewer bytes than its shape takes.
void write_streamed(const std::filesystem::path& path, std::span<const StreamedTensor> tensors,
                    const std::map<std::string, std::string>& metadata = {}, StopToken stop = {});

}  // namespace unigrpo::io
