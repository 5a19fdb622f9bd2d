#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "policy/ltx2/connectors.h"
#include "policy/policy.h"
#include "tensor/named_tensor.h"

namespace unigrpo::policy::ltx2 {

/// Prompts to the hidden states that the connectors read.
class TextSource {
 public:
  virtual ~TextSource() = default;
  /// [L, D, K] float32 on the CPU, without padding, L >= 1. Throws BadInput naming the prompt where there is none.
  virtual at::Tensor states(const std::string& prompt) = 0;
  /// What could be trained of it, by the names of its folder.
  virtual NamedTensors parameters() const { return {}; }
};

/// Hidden states made beforehand: a .safetensors file (or shards) with a tensor a prompt, named by the prompt, [L, D,
/// K] or [L, D K] as the text encoder's stacked layers are flattened. What checkpoints whose text encoder is Gemma
/// need.
std::unique_ptr<TextSource> open_text_features(const std::filesystem::path& file, const ConnectorsConfig& connectors);

/// A folder of class UniGRPOTextEncoder: config.json, model.safetensors, a tokenizer. Token and place embeddings, a
/// pre-norm transformer that sees all tokens, a layer norm: [L, hidden_size, 1]. `fresh`: the seed of new weights,
/// where the folder has none.
std::unique_ptr<TextSource> open_text_encoder(const std::filesystem::path& folder, const ConnectorsConfig& connectors,
                                              std::optional<uint64_t> fresh = std::nullopt);

/// The last hidden state of a text policy over the prompt as it writes texts: [L, hidden_size, 1]. `policy` outlives
/// the source.
std::unique_ptr<TextSource> policy_text(UnifiedPolicy& policy, const ConnectorsConfig& connectors);

/// Prompts' states side by side, padded on the left to `length` (0: to the longest, rounded up to a multiple of
/// `multiple`). Real checkpoints were trained with 1,024, where registers stand in the place of padding. Throws
/// BadInput for a prompt that is longer than `length`.
TextStates padded_left(std::span<const at::Tensor> states, int64_t length, int64_t multiple);

}  // namespace unigrpo::policy::ltx2
