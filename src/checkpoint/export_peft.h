#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "optim/parameters.h"

namespace unigrpo::checkpoint {

/// A low-rank adapter: W + (alpha / rank) B A for every adapted module.
struct LoraAdapter {
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  std::string base_model = {};  // folder or name of the model that it belongs to; may be empty
  /// "<module>.lora_A.weight" [rank, in] and "<module>.lora_B.weight" [out, rank], a pair for each module; of an
  /// embedding "<module>.lora_embedding_A" [rank, ids] and "<module>.lora_embedding_B" [width, rank].
  optim::NamedParameters tensors = {};
  /// Weights of the base that the file holds as well ("<module>.weight"), as PEFT writes them of embeddings.
  optim::NamedParameters base_weights = {};
};

struct PeftOptions {
  std::string task_type = {};                         // "CAUSAL_LM"; empty: none
  std::optional<std::string> generation_config = {};  // text of generation_config.json beside the adapter
};

/// Writes a folder that PEFT reads: adapter_model.safetensors, whose names are ours behind "base_model.model.", and
/// adapter_config.json with each adapted module by its full name. Built under a temporary name and renamed;
/// `destination` must be absent or an empty folder (BadInput). Throws BadInput naming the tensor where pairs or
/// shapes do not fit. Source: PEFT's documentation, "PEFT checkpoint format".
void export_peft(const std::filesystem::path& destination, const LoraAdapter& adapter, const PeftOptions& options = {});

/// Reads such a folder, tensors on the CPU in the file's dtype, pairs in order of name. Throws BadInput naming file
/// and key or tensor for whatever we would not compute alike: another peft_type; an initialisation that changed the
/// base's weights; any key of PEFT's that makes the adapter more than plain LoRA, and any key that we do not know and
/// that is set; a tensor without its partner, of another rank, or of a module that the config's rules leave out.
/// Source: LoraConfig of PEFT 0.21.
LoraAdapter read_peft(const std::filesystem::path& folder);

}  // namespace unigrpo::checkpoint
