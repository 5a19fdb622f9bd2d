#include "policy/load.h"

#include "base/error.h"
#include "policy/paired.h"
#include "policy/qwen2.h"

namespace unigrpo::policy {

std::unique_ptr<UnifiedPolicy> load(const PolicyConfig& config, uint64_t seed) {
  switch (family_of(config.model)) {
    case Family::bagel:
      return Bagel::load(config, seed);
    case Family::qwen2:
      return Qwen2::load(config, seed);
    case Family::pair:
      return Paired::load(config, seed);
  }
  return nullptr;
}

ModelSizes read_sizes(const std::filesystem::path& folder) {
  ModelSizes sizes{.family = family_of(folder), .llm = {}, .bagel = {}, .shapes = {}};
  if (sizes.family == Family::pair) {
    const PairFolders halves = read_pair_config(folder);
    throw BadInput("{}: a pair of models; ask about its halves, {} and {}, one by one", folder.string(), halves.text,
                   halves.image);
  }
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
