#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "base/signals.h"
#include "policy/ltx2/model.h"

namespace unigrpo::checkpoint {

struct ExportLtx2Options {
  NamedTensors text_encoder = {};  // weights that a UniGRPOTextEncoder gets instead of those in its folder
  std::map<std::string, at::ScalarType> fresh_dtypes = {};  // of components that the model's folder has no weights of;
                                                            // others as they are held
  uint64_t shard_bytes = 0;  // over this size a component's weights come in shards; 0: one file each
  StopToken stop = {};
};

/// Writes an LTX-2 model as the diffusers folder that it came from: configs, scheduler, generation_config.json and
/// whatever of text stands in the index byte for byte, every component's weights under the same names in the file's own
/// types (in the type that the model holds where that is narrower). The folder appears whole or not at all;
/// `destination` must be absent or an empty folder. Throws BadInput for one that is in use, RuntimeFailure where the
/// disk refuses.
void export_ltx2(const policy::ltx2::Model& model, const std::filesystem::path& destination,
                 const ExportLtx2Options& options = {});

/// Into `folder`, which is there: model_index.json and the components of `source`, byte for byte, but for the
/// transformer, of which there is the config alone.
void copy_around_transformer(const std::filesystem::path& source, const std::filesystem::path& folder,
                             StopToken stop = {});

}  // namespace unigrpo::checkpoint
