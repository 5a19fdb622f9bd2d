// Lengths of sequences: buckets, cuts, and sets drawn from a distribution's knots.
#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "planner/flexible_sequence.h"

namespace unigrpo::planner {

namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max() / 2;

/// Where the buckets of the least padding end, of sorted lengths.
struct Buckets {
  int64_t padding = 0;
  std::vector<int64_t> ends;
};

// padding[q][i] = least over j < i of padding[q-1][j] + sum of (l_i - l) over lengths j .. i - 1
Buckets best_buckets(const std::vector<int64_t>& sorted, int64_t buckets) {
  const auto n = std::ssize(sorted);
  std::vector<int64_t> sums(n + 1, 0);
  for (int64_t i = 0; i < n; ++i) sums[i + 1] = sums[i] + sorted[i];
  std::vector<int64_t> least(n + 1, kNone);
  least[0] = 0;
  std::vector<std::vector<int64_t>> begins;  // [buckets][i]: of the last one of those that end at i; -1: it is empty
  for (int64_t q = 0; q < std::min<int64_t>(buckets, n); ++q) {
    std::vector<int64_t> next = least;
    std::vector<int64_t>& begin = begins.emplace_back(n + 1, -1);
    for (int64_t i = 1; i <= n; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        const int64_t padding = least[j] + sorted[i - 1] * (i - j) - (sums[i] - sums[j]);
        if (padding < next[i]) next[i] = padding, begin[i] = j;
      }
    }
    least = std::move(next);
  }
  Buckets out{.padding = least[n], .ends = {}};
  int64_t end = n;
  for (auto q = std::ssize(begins) - 1; q >= 0; --q) {
    if (begins[q][end] < 0) continue;
    out.ends.push_back(end);
    end = begins[q][end];
  }
  std::ranges::reverse(out.ends);
  return out;
}

}  // namespace

int64_t least_padding(std::vector<int64_t> lengths, int64_t buckets) {
  std::ranges::sort(lengths);
  return best_buckets(lengths, buckets).padding;
}

std::vector<int64_t> padded_lengths(const std::vector<int64_t>& lengths, int64_t buckets) {
  std::vector<int64_t> sorted = lengths;
  std::ranges::sort(sorted);
  std::vector<int64_t> tops, out;
  for (const int64_t end : best_buckets(sorted, buckets).ends) tops.push_back(sorted[end - 1]);
  for (const int64_t length : lengths) out.push_back(*std::ranges::lower_bound(tops, length));
  return out;
}

int64_t adaptive_buckets(const std::vector<int64_t>& lengths, int64_t capacity_tokens) {
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  int64_t buckets = 16;
  while (buckets < std::ssize(lengths) && tokens + least_padding(lengths, buckets) > (tokens + capacity_tokens) / 2) {
    ++buckets;
  }
  return buckets;
}

TokenSplit split_tokens(std::vector<int64_t> lengths, int64_t parts) {
  std::ranges::sort(lengths, std::greater<>());
  int64_t low = lengths.empty() ? 0 : lengths.front(),
          high = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const auto cut = [&](int64_t most) {
    std::vector<int64_t> sizes;
    int64_t sum = 0;
    for (const int64_t length : lengths) {
      if (sizes.empty() || sum + length > most) sizes.push_back(0), sum = 0;
      ++sizes.back();
      sum += length;
    }
    return sizes;
  };
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (std::ssize(cut(middle)) <= parts) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return {low, cut(low)};
}

LengthSet make_lengths(const LengthQuery& query) {
  const auto& ppm = query.ppm;
  if (ppm.size() < 2 || ppm.size() != query.length.size() || ppm.front() != 0 || ppm.back() != 1'000'000) {
    throw BadInput("quantiles need as many lengths as ppm, which run from 0 to 1000000");
  }
  for (size_t k = 0; k + 1 < ppm.size(); ++k) {
    if (ppm[k + 1] <= ppm[k] || query.length[k + 1] < query.length[k] || query.length[k] < 0) {
      throw BadInput("quantiles must rise: knot {} is {} ppm, length {}", k + 1, ppm[k + 1], query.length[k + 1]);
    }
  }
  if (query.count < 1 || query.count > 10'000'000 || query.multiple < 1 || query.length.back() > (int64_t{1} << 31)) {
    throw BadInput("count must be 1 to 10000000, multiple at least 1, lengths at most 2^31");
  }
  LengthSet out;
  const int64_t n = query.count;
  size_t k = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t u = (2 * i + 1) * 1'000'000;
    while (u > 2 * n * ppm[k + 1]) ++k;
    const __int128 rise = query.length[k + 1] - query.length[k];  // products of long lists pass 64 bits
    int64_t v = query.length[k] + static_cast<int64_t>(rise * (u - 2 * n * ppm[k]) / (2 * n * (ppm[k + 1] - ppm[k])));
    v = std::max(query.multiple, (v + query.multiple - 1) / query.multiple * query.multiple);
    if (v > query.limit) {
      ++out.dropped;
      continue;
    }
    out.lengths.push_back(v);
    out.total += v;
  }
  for (const int64_t at : query.at) {
    out.at_most.push_back(std::ranges::count_if(out.lengths, [at](int64_t v) { return v <= at; }));
  }
  return out;
}

}  // namespace unigrpo::planner
