#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint_layout.h"
#include "io/safetensors.h"
#include "optim/parameters.h"
#include "runtime/runtime.h"

namespace unigrpo::checkpoint {

/// A tensor of a checkpoint where it lies in mapped files, whole or in pieces.
struct MappedTensor {
  struct Piece {
    int64_t first = 0, count = 0;  // elements
    std::span<const std::byte> bytes;
  };
  io::DType dtype = io::DType::f32;
  std::vector<int64_t> shape = {};
  std::vector<Piece> pieces = {};  // in order; together they are all of it

  int64_t num_elements() const;
  /// [count] on the CPU, in its own dtype: copies those elements and reads no others; the file's pages are given back.
  at::Tensor elements(int64_t first, int64_t count) const;
  /// The same of a piece, of columns too.
  at::Tensor elements(const PieceOf& piece, int64_t count) const;
  at::Tensor whole() const;
};
/// The tensor of a mapped file.
MappedTensor mapped(const io::TensorView& view);
/// Hands all elements on, in order and some at a time, so that a large tensor takes little memory.
void for_each_run(const MappedTensor& tensor, const std::function<void(const at::Tensor& elements)>& take);

using MappedTensors = std::map<std::string, MappedTensor, std::less<>>;
/// What a part has for a parameter, or for the whole of which it is a piece. Throws BadInput beginning with `where`
/// where that is missing or of another shape.
const MappedTensor& stored_for(const NamedTensor& own, const MappedTensors& part, const std::string& where);

/// A checkpoint whose every byte was checked, its tensors mapped from the files, however many ranks wrote it.
struct LoadedCheckpoint {
  std::filesystem::path folder;
  int64_t step = 0;
  std::string recipe_toml = {};
  std::map<std::string, std::string> counters = {};
  std::map<std::string, MappedTensors> parts = {};  // by part: "policy", "optimizer", "ema"
  std::vector<io::SafetensorsFile> files = {};      // what the parts look into

  /// Throws BadInput where the checkpoint has no such part.
  const MappedTensors& part(std::string_view name) const;
  /// The part's tensors, copied to the CPU in their own dtypes.
  optim::NamedParameters tensors(std::string_view name) const;
  /// A counter as a whole number. Throws BadInput naming state.json where it is absent or not one.
  int64_t counter(const std::string& name) const;
};

/// Copies a checkpoint's tensors into the parameters of the same names, which may come in another order, each brought
/// to its parameter's type. Throws BadInput as optim::assign does.
void assign_converted(const optim::NamedParameters& parameters, optim::NamedParameters values,
                      const std::string& where);

/// Opens one committed checkpoint. Every file of the share that the manifest lists must be there with its size and
/// SHA-256, no other beside them. Throws BadInput naming the damaged file. Fault point: load.file.
LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, const io::Share& share = {});

/// The newest checkpoint under `folder` that verifies, with a warning where that is not the newest of all. Changes
/// nothing on disk, but hands each one that does not verify to `on_damaged`, on the root. Empty where there is none;
/// throws BadInput, naming the damaged file, where there are some and none verifies. On several ranks all call it, each
/// checks a share of the files, and all open the same one.
std::optional<LoadedCheckpoint> newest_checkpoint(
    const std::filesystem::path& folder, const std::function<void(const std::filesystem::path&)>& on_damaged = {},
    const Runtime& runtime = {});

}  // namespace unigrpo::checkpoint
