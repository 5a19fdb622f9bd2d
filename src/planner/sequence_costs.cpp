#include "planner/sequence_costs.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

/// a x^2 + b x + c.
struct Curve {
  double a = 0, b = 0, c = 0;
};

/// Milliseconds of one forward pass of the whole model over a sample, by its length, of which half the pairs are seen.
struct ForwardMs {
  Curve layers = {};
  double ends_per_token = 0;
};

/// MB that a token of a group of so many ranks puts into a layer's exchanges, in one pass: query and result of all
/// heads, key and value of as many as there are, or as there are ranks.
double exchanged_mb(const ModelShape& shape, int64_t degree, bool half) {
  const double head = real(shape.hidden) / real(shape.heads);
  return (half ? 2 : 4) * head * real(2 * shape.heads + 2 * std::max(shape.kv_heads, degree)) / kMib;
}

SequenceCosts costs_of(const ForwardMs& forward, double traffic_ms, const SequenceWork& work) {
  SequenceCosts out;
  out.cost.alpha1 = 2 * work.passes * std::max(0.0, forward.layers.a);  // half of the pairs of a causal sample are seen
  out.cost.alpha2 = work.passes * std::max(0.0, forward.layers.b + forward.ends_per_token);
  out.cost.beta = work.passes * std::max(0.0, forward.layers.c) + traffic_ms;
  out.cost.comm_ms_per_token = {{1, 0.0}};
  out.cost.tokens_per_rank = work.tokens_per_rank;
  return out;
}

/// `line`: milliseconds of an exchange by the MB at each rank. A layer has two a pass.
void add_degree(const ModelShape& shape, int64_t degree, const Line& line, const SequenceWork& work,
                SequenceCosts& costs) {
  const double passes = work.exchanges * real(shape.layers);
  costs.cost.comm_ms_per_token[degree] =
      passes * exchanged_mb(shape, degree, work.half) / real(degree) * std::max(0.0, line.slope);
  costs.exchange_ms[degree] = 2 * passes * std::max(0.0, line.offset);
}

/// The counted forward pass of one layer, and of the ends a token.
ForwardMs counted_forward(const ModelShape& shape, double tflops, bool half) {
  constexpr int64_t kLength = 1 << 16;
  const auto ms = [&](int64_t tokens) {
    return analytic_model(shape, {.tokens = tokens, .half = half}, tflops).layers.front().forward_ms.slope;
  };
  const double s = real(kLength), once = ms(kLength), twice = ms(2 * kLength);
  const double a = (twice - 2 * once) / (2 * s * s);
  const PlannedModel model = analytic_model(shape, {.tokens = kLength, .half = half}, tflops);
  return {.layers = {a, once / s - a * s, 0}, .ends_per_token = (model.embed.forward_ms + model.head.forward_ms) / s};
}

double weights_mb(const ModelShape& shape, bool half) {
  const PlannedModel model = analytic_model(shape, {.tokens = 1, .half = half}, 1);
  const double floats =
      real(shape.layers) * model.layers.front().parameter_mb + model.embed.parameter_mb + model.head.parameter_mb;
  return half ? floats / 2 : floats;
}

Curve scaled(const Curve& curve, double by) { return {curve.a * by, curve.b * by, curve.c * by}; }

/// Through three points.
Curve curve_through(const std::vector<std::pair<double, double>>& p) {
  const double d01 = (p[1].second - p[0].second) / (p[1].first - p[0].first);
  const double d12 = (p[2].second - p[1].second) / (p[2].first - p[1].first);
  const double a = (d12 - d01) / (p[2].first - p[0].first);
  const double b = d01 - a * (p[0].first + p[1].first);
  return {a, b, p[0].second - (a * p[0].first + b) * p[0].first};
}

}  // namespace

SequenceCost SequenceCosts::of(int64_t tokens, int64_t ranks, int64_t least_tokens_per_rank) const {
  SequenceCost out = cost;
  out.tokens_per_rank = std::max(out.tokens_per_rank, least_tokens_per_rank);
  const double full = std::max(1.0, std::min(real(out.tokens_per_rank), real(tokens) / real(ranks)));
  for (auto& [degree, ms] : out.comm_ms_per_token) {
    if (const auto fixed = exchange_ms.find(degree); fixed != exchange_ms.end()) {
      ms += fixed->second / (full * real(degree));
    }
  }
  return out;
}

SequenceCosts counted_costs(const ModelShape& shape, const Cluster& cluster, double tflops, const SequenceWork& work) {
  ForwardMs forward = counted_forward(shape, tflops, work.half);
  forward.layers = scaled(forward.layers, real(shape.layers));
  const double traffic = work.gathers * collective_ms(cluster, Collective::all_gather, {.ranks = work.ranks},
                                                      weights_mb(shape, work.half));
  SequenceCosts costs = costs_of(forward, traffic, work);
  for (const int64_t degree : work.degrees) {
    if (degree == 1) continue;
    const auto ms = [&](double mb) { return collective_ms(cluster, Collective::all_to_all, {.ranks = degree}, mb); };
    add_degree(shape, degree, {.slope = ms(2) - ms(1), .offset = 2 * ms(1) - ms(2)}, work, costs);
  }
  return costs;
}

SequenceCosts profiled_costs(const ProfileFolder& folder, const ModelShape& shape, const SequenceWork& work) {
  const std::vector<int64_t> lengths = profiled_lengths(folder);
  const bool curved = lengths.size() >= 3;
  const auto at = [&](int64_t length) {
    return load_profile(folder, {.types = {{.count = shape.layers, .hidden = shape.hidden, .seq = length}},
                                 .time = curved ? ProfileMode::sequence : ProfileMode::at_length,
                                 .memory = ProfileMode::sequence});
  };
  const LoadedProfile longest = at(lengths.back());
  const double s = real(lengths.back()), layer_ms = longest.model.types.front().forward_ms.at(1);
  ForwardMs forward{.ends_per_token = longest.model.ends_ms.at(1) / s};
  if (curved) {
    std::vector<std::pair<double, double>> points;
    for (const int64_t length : {lengths.front(), lengths[lengths.size() / 2]}) {
      points.emplace_back(real(length), at(length).model.types.front().forward_ms.at(1));
    }
    points.emplace_back(s, layer_ms);
    forward.layers = curve_through(points);
  } else {
    const Curve counted = counted_forward(shape, 1, work.half).layers;
    forward.layers = scaled(counted, layer_ms / ((counted.a * s + counted.b) * s));
  }
  forward.layers = scaled(forward.layers, real(shape.layers));
  double traffic = 0;
  if (work.gathers > 0 && work.ranks > 1) {
    const auto sums = longest.hardware.allreduce.find(work.ranks);
    if (sums == longest.hardware.allreduce.end()) {
      throw BadInput("{}: 'allreduce_size_{}_*MB_time' is missing: {} ranks share the weights",
                     longest.hardware.sp_time_file, work.ranks, work.ranks);
    }
    const double layer_mb = weights_mb(shape, work.half) / real(shape.layers);  // a gather is half of a sum
    traffic = work.gathers * real(shape.layers) * std::max(0.0, sums->second.at(layer_mb)) / 2;
  }
  SequenceCosts costs = costs_of(forward, traffic, work);
  for (const int64_t degree : work.degrees) {
    if (degree == 1) continue;
    const auto exchanges = longest.hardware.all_to_all.find(degree);
    if (exchanges == longest.hardware.all_to_all.end()) {
      throw BadInput("{}: 'all2all_size_{}_*MB_time' is missing: {} ranks may share a sequence",
                     longest.hardware.sp_time_file, degree, degree);
    }
    add_degree(shape, degree, exchanges->second.line, work, costs);
  }
  return costs;
}

}  // namespace unigrpo::planner
