#include "data/worlds/arithmetic.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/rng.h"

namespace unigrpo::data {

ArithmeticRows make_sums(int64_t largest, uint64_t seed) {
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t a = 0; a <= largest; ++a) {
    for (int64_t b = a; b <= largest; ++b) pairs.emplace_back(a, b);
  }
  RandomStream stream({.seed = seed, .purpose = Purpose::prompt_order});
  for (size_t i = pairs.size() - 1; i > 0; --i) std::swap(pairs[i], pairs[stream.below(i + 1)]);
  const std::set<std::pair<int64_t, int64_t>> held_out(pairs.begin(),
                                                       pairs.begin() + static_cast<int64_t>((pairs.size() + 4) / 5));
  ArithmeticRows rows;
  for (int64_t a = 0; a <= largest; ++a) {
    for (int64_t b = 0; b <= largest; ++b) {
      const nlohmann::ordered_json row = {{"id", fmt::format("{}+{}", a, b)},
                                          {"tag", "sum"},
                                          {"prompt", fmt::format("{} + {} =", a, b)},
                                          {"metadata", {{"answer", std::to_string(a + b)}}}};
      (held_out.contains(std::minmax(a, b)) ? rows.test : rows.train).push_back(row.dump());
    }
  }
  return rows;
}

}  // namespace unigrpo::data
