#pragma once

#include <cstdint>
#include <vector>

namespace unigrpo::parallel {

/// Where the even share of `rank` among `ranks` begins; that of rank + 1 is where it ends.
inline int64_t share_begin(int64_t total, int64_t rank, int64_t ranks) { return total * rank / ranks; }

/// [ranks]: the sizes of all shares.
inline std::vector<int64_t> even_shares(int64_t total, int64_t ranks) {
  std::vector<int64_t> counts;
  for (int64_t r = 0; r < ranks; ++r) counts.push_back(share_begin(total, r + 1, ranks) - share_begin(total, r, ranks));
  return counts;
}

}  // namespace unigrpo::parallel
