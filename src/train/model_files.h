#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "tensor/named_tensor.h"

namespace unigrpo::train {

/// Throws BadInput unless `folder` is missing or empty: a model folder is never overwritten.
void require_new_folder(const std::filesystem::path& folder, const std::string& key);

/// Writes a model folder whole or not at all: copies every file of `source` but those named in `tensors` and `texts`, then
/// `tensors` (file name -> tensors, stored as bf16) and `texts` (file name -> content).
void write_model_folder(const std::filesystem::path& source, const std::filesystem::path& destination,
                        const std::map<std::string, NamedTensors>& tensors,
                        const std::map<std::string, std::string>& texts);

}  // namespace unigrpo::train
