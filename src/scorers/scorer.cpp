#include "scorers/scorer.h"

#include "base/error.h"
#include "scorers/aesthetic.h"
#include "scorers/similarity.h"

namespace unigrpo::scorers {

std::unique_ptr<reward::Reward> make_scorer(ScorerKind kind, const std::filesystem::path& folder,
                                            const ScorerOptions& options) {
  if (options.batch_size < 1) throw BadInput("a scorer's batch_size must be at least 1, got {}", options.batch_size);
  if (kind == ScorerKind::aesthetic) return make_aesthetic_scorer(folder, options);
  return make_similarity_scorer(kind, folder, options);
}

}  // namespace unigrpo::scorers
