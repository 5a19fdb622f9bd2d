#pragma once

#include <filesystem>
#include <optional>

#include "base/enum_names.h"

namespace unigrpo {

namespace policy {

/// Kinds of model folders that load, by their `model_type`.
enum class Family {
  bagel,  // text and images
  qwen2,  // Qwen2 and Qwen2.5: text
  pair    // one of each, in folders of their own: paired.h
};

/// Which family config.json of a model folder names: by `model_type`, else `architectures`; a file with neither is
/// BAGEL's where llm_config.json lies beside it. Throws BadInput naming file and key for any other, and for a folder
/// without config.json.
Family family_of(const std::filesystem::path& folder);

/// The file that opens a folder's weights: the family's single file, or the index of its shards; nothing where there
/// are none.
std::optional<std::filesystem::path> find_weights(const std::filesystem::path& folder, Family family);

/// The single file that weights come in: ema.safetensors, model.safetensors. A pair has none of its own.
const char* weights_file(Family family);

}  // namespace policy

template <>
struct EnumNames<policy::Family> {
  static constexpr std::array names = {std::pair{policy::Family::bagel, "bagel"},
                                       std::pair{policy::Family::qwen2, "qwen2"},
                                       std::pair{policy::Family::pair, "unigrpo_pair"}};
};

}  // namespace unigrpo
