#include "policy/load.h"

#include "policy/qwen2.h"

namespace unigrpo::policy {

std::unique_ptr<UnifiedPolicy> load(const PolicyConfig& config, uint64_t seed) {
  if (family_of(config.model) == Family::bagel) return Bagel::load(config, seed);
  return Qwen2::load(config, seed);
}

ModelSizes read_sizes(const std::filesystem::path& folder) {
  ModelSizes sizes{.family = family_of(folder), .llm = {}, .bagel = {}, .shapes = {}};
  if (sizes.family == Family::bagel) {
    sizes.bagel = read_bagel_config(folder);
    sizes.llm = sizes.bagel->llm;
    sizes.shapes = Bagel::shapes(*sizes.bagel);
  } else {
    sizes.llm = read_qwen2_config(folder);
    sizes.shapes = Qwen2::shapes(sizes.llm);
  }
  return sizes;
}

}  // namespace unigrpo::policy
