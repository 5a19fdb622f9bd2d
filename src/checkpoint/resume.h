#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "io/safetensors.h"
#include "optim/parameters.h"

namespace unigrpo::checkpoint {

/// A checkpoint whose every byte was checked, its tensors mapped from the files.
struct LoadedCheckpoint {
  std::filesystem::path folder;
  int64_t step = 0;
  std::string recipe_toml = {};
  std::map<std::string, std::string> counters = {};
  std::map<std::string, io::SafetensorsFile> parts = {};  // by part: "policy", "optimizer", "ema"

  /// The part's file. Throws BadInput where the checkpoint has no such part.
  const io::SafetensorsFile& part(std::string_view name) const;
  /// The part's tensors, copied to the CPU in their own dtypes.
  optim::NamedParameters tensors(std::string_view name) const;
  /// A counter as a whole number. Throws BadInput naming state.json where it is absent or not one.
  int64_t counter(const std::string& name) const;
};

/// Copies a checkpoint's tensors into the parameters of the same names, which may come in another order, each brought
/// to its parameter's type. Throws BadInput as optim::assign does.
void assign_converted(const optim::NamedParameters& parameters, optim::NamedParameters values,
                      const std::string& where);

/// Whether a checkpoint's files are held against their digests; false: another rank has just done it.
enum class Verify { yes, no };

/// Opens one committed checkpoint. Every file that the manifest lists must be there with its size and SHA-256, no
/// other beside them. Throws BadInput naming the damaged file. Fault point: load.file.
LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, Verify verify = Verify::yes);

/// The newest checkpoint under `folder` that verifies, with a warning where that is not the newest of all. Changes
/// nothing on disk, but hands each one that does not verify to `on_damaged`. Empty where there is none; throws
/// BadInput, naming the damaged file, where there are some and none verifies.
std::optional<LoadedCheckpoint> newest_checkpoint(
    const std::filesystem::path& folder, const std::function<void(const std::filesystem::path&)>& on_damaged = {});

}  // namespace unigrpo::checkpoint
