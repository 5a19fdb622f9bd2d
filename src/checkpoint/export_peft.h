#pragma once

#include <filesystem>
#include <string>

#include "optim/parameters.h"

namespace unigrpo::checkpoint {

/// A low-rank adapter: W + (alpha / rank) B A for every adapted module.
struct LoraAdapter {
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  std::string base_model = {};  // folder or name of the model that it belongs to; may be empty
  /// "<module>.lora_A.weight" [rank, in] and "<module>.lora_B.weight" [out, rank], a pair for each module.
  optim::NamedParameters tensors = {};
};

/// Writes a folder that PEFT reads: adapter_model.safetensors, whose names are ours behind "base_model.model.", and
/// adapter_config.json with each adapted module by its full name. Built under a temporary name and renamed;
/// `destination` must be absent or an empty folder (BadInput). Throws BadInput naming the tensor where pairs or
/// shapes do not fit. Source: PEFT's documentation, "PEFT checkpoint format".
void export_peft(const std::filesystem::path& destination, const LoraAdapter& adapter);

/// Reads such a folder, tensors on the CPU in the file's dtype, pairs in order of name. Throws BadInput naming file
/// and key or tensor for whatever we would not compute alike: another peft_type, rsLoRA, DoRA, transposed weights,
/// trained biases or whole modules, ranks or alphas by pattern; a tensor without its partner, of another rank, or of
/// a module that target_modules does not name.
LoraAdapter read_peft(const std::filesystem::path& folder);

}  // namespace unigrpo::checkpoint
