// The simulated tables of docs/PLANNING.md.
//
//   build/bin/bench_planner_tables [tests/data/planner]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/rng.h"
#include "io/json.h"
#include "planner/flexible_sequence.h"
#include "planner/model_shape.h"
#include "planner/search.h"
#include "planner/waves.h"
#include "sequence_cost.h"

namespace {

using namespace unigrpo;
using namespace unigrpo::planner;
using bench::cost_7b;

constexpr int64_t kTokens = 4096;

PlannedModel llama_7b() {
  const ModelShape shape{
      .layers = 32, .hidden = 4096, .intermediate = 11008, .heads = 32, .kv_heads = 32, .vocab = 32000};
  return analytic_model(shape, {.tokens = kTokens}, 400);
}

// ---- plans ----

struct Kind {
  const char* name;
  Space space;
  bool uniform;
};

std::vector<Kind> kinds() {
  const Space all{.powers_of_two = false, .zero1 = true};
  Space dp = all, sharded = all, three = all;
  dp.sdp = dp.tp = dp.sp = dp.pp = dp.zero1 = false;
  sharded.dp = sharded.tp = sharded.sp = sharded.pp = sharded.zero1 = false;
  three.sdp = three.sp = three.zero1 = false;
  return {{"DP", dp, true},
          {"ZeRO-3", sharded, true},
          {"3D (dp, tp, pp)", three, true},
          {"uniform best", all, true},
          {"ours", all, false}};
}

std::string rate(const PlannedModel& model, const Cluster& cluster, const Kind& kind, int64_t batch) {
  const SearchQuery query{.space = kind.space, .global_batch = batch, .uniform = kind.uniform};
  try {
    const SearchResult result = search_plans(model, cluster, query);
    if (result.plans.empty()) return "-";
    return fmt::format("{:.1f}", 1000 * static_cast<double>(batch) / result.plans.front().plan.predicted.step_ms);
  } catch (const BadInput&) {
    return "-";
  }
}

void plan_tables() {
  const PlannedModel model = llama_7b();
  std::printf("Samples a second, batch 64:\n\n| cluster | GiB |");
  for (const Kind& kind : kinds()) std::printf(" %s |", kind.name);
  std::printf("\n|---|---|---|---|---|---|---|\n");
  const Cluster clusters[] = {{.nodes = 1}, {.nodes = 4}, {.nodes = 8, .node_gbps = 12.5}};
  for (const Cluster& cluster : clusters) {
    for (const double gib : {24.0, 40.0, 80.0, 140.0}) {
      Cluster sized = cluster;
      sized.memory_gib = gib;
      std::printf("| %ld x 8, %.3g GB/s | %.0f |", static_cast<long>(cluster.nodes), cluster.node_gbps, gib);
      for (const Kind& kind : kinds()) std::printf(" %s |", rate(model, sized, kind, 64).c_str());
      std::printf("\n");
    }
  }
  std::printf(
      "\nWithout one dimension, samples a second:\n\n| cluster | GiB | all | no dp | no sdp | no tp | no sp | no pp | "
      "no recomputation |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|\n");
  for (const double gib : {24.0, 80.0}) {
    Cluster cluster = clusters[2];
    cluster.memory_gib = gib;
    std::printf("| 8 x 8, 12.5 GB/s | %.0f | %s |", gib, rate(model, cluster, kinds().back(), 64).c_str());
    for (bool Space::*part : {&Space::dp, &Space::sdp, &Space::tp, &Space::sp, &Space::pp, &Space::recompute}) {
      Kind kind = kinds().back();
      kind.space.*part = false;
      std::printf(" %s |", rate(model, cluster, kind, 64).c_str());
    }
    std::printf("\n");
  }
}

// ---- flexible sequences ----

double step_ms(const SequenceCost& cost, const std::vector<int64_t>& lengths) {
  const auto step = assign_step(cost, full_attention(lengths), 64);
  if (!step) return INFINITY;
  double ms = 0;
  for (const Assignment& part : *step) ms += part.milliseconds;
  return ms;
}

/// A length of the distribution, rounded up to 128.
int64_t draw(const nlohmann::json& quantiles, RandomStream& random) {
  const auto ppm = quantiles["ppm"].get<std::vector<double>>(), length = quantiles["length"].get<std::vector<double>>();
  const double u = random.uniform() * 1e6;
  size_t k = 0;
  while (ppm[k + 1] < u) ++k;
  const double value = length[k] + (length[k + 1] - length[k]) * (u - ppm[k]) / (ppm[k + 1] - ppm[k]);
  return 128 * static_cast<int64_t>(std::ceil(std::max(1.0, value) / 128));
}

using Batches = std::vector<std::vector<int64_t>>;
using Draw = std::function<int64_t(RandomStream&)>;  // of one length

/// Calls `visit` for each distribution of the fixtures.
void for_each_corpus(const std::filesystem::path& data,
                     const std::function<void(const std::string&, const Draw&)>& visit) {
  std::set<std::string> seen;
  const nlohmann::json content = io::read_json_file(data / "lengths.json");
  for (const nlohmann::json& one : content["cases"]) {
    if (!one.contains("info") || one["op"] != "flex.lengths") continue;
    const auto corpus = one["info"]["corpus"].get<std::string>();
    const nlohmann::json& quantiles = one["input"]["quantiles"];
    if (seen.insert(corpus).second) visit(corpus, [&](RandomStream& random) { return draw(quantiles, random); });
  }
}

/// Of 512 sequences each, none longer than `limit`.
Batches draw_batches(const Draw& draw_length, int64_t limit) {
  RandomStream random({.seed = 64});
  Batches batches(5);
  for (auto& batch : batches) {
    while (batch.size() < 512) {
      if (const int64_t length = draw_length(random); length <= limit) batch.push_back(length);
    }
  }
  return batches;
}

void sequence_table(const std::filesystem::path& data) {
  std::printf("\nMean ms a step of 512 sequences on 64 ranks, 5 batches:\n\n");
  std::printf(
      "| lengths | longest | static SP | best SP a batch | flexible SP | over static | over best "
      "|\n|---|---|---|---|---|---|---|\n");
  const auto rows = [](const std::string& corpus, const Draw& draw_length, const std::vector<int64_t>& limits) {
    for (const int64_t limit : limits) {
      const Batches batches = draw_batches(draw_length, limit);
      // Static: the degree whose sum over all batches is least; each batch may choose its own otherwise.
      double flexible = 0, best_static = INFINITY, adaptive = 0;
      std::vector<double> least(batches.size(), INFINITY);
      for (const auto& [degree, ms] : cost_7b().comm_ms_per_token) {
        SequenceCost cost = cost_7b();
        cost.comm_ms_per_token = {{degree, ms}};
        // A static degree must hold the longest context that the run allows.
        const bool holds = degree * cost.tokens_per_rank >= limit;
        double sum = 0;
        for (size_t b = 0; b < batches.size(); ++b) {
          const double step = step_ms(cost, batches[b]);
          sum += step;
          least[b] = std::min(least[b], step);
        }
        if (holds) best_static = std::min(best_static, sum);
      }
      for (size_t b = 0; b < batches.size(); ++b) flexible += step_ms(cost_7b(), batches[b]), adaptive += least[b];
      std::printf("| %s | %ld | %.0f | %.0f | %.0f | %.2fx | %.2fx |\n", corpus.c_str(), static_cast<long>(limit),
                  best_static / 5, adaptive / 5, flexible / 5, best_static / flexible, adaptive / flexible);
    }
  };
  for_each_corpus(
      data, [&](const std::string& corpus, const Draw& draw_length) { rows(corpus, draw_length, {65536, 196608}); });
  // The longest of 512 is about 20 times the median, which is 3277.
  rows("log-normal",
       [](RandomStream& random) {
         return 128 *
                static_cast<int64_t>(std::ceil(65536 / 20.0 * std::exp(std::log(20.0) / 3 * random.normal()) / 128));
       },
       {65536});
}

// ---- what of flexible sequences does how much ----

/// A step planned as if its lengths were `assumed`, with its own.
double step_ms_by(const SequenceCost& cost, const std::vector<int64_t>& lengths, const std::vector<int64_t>& assumed) {
  const auto sequences = full_attention(lengths);
  double ms = 0;
  const std::vector<Assignment> parts = assign_step(cost, full_attention(assumed), 64).value();
  for (const Assignment& part : parts) {
    double slowest = 0;
    for (const SequenceGroup& group : part.groups) slowest = std::max(slowest, group_ms(cost, sequences, group));
    ms += slowest;
  }
  return ms;
}

/// Micro-batches of even tokens in the order in which the sequences come, not by length.
double step_ms_unsorted(const SequenceCost& cost, const std::vector<int64_t>& lengths) {
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const int64_t least = (tokens + 64 * cost.tokens_per_rank - 1) / (64 * cost.tokens_per_rank);
  double best = INFINITY;
  for (int64_t parts = least, tried = 0; tried < 5 && parts < 4 * least + 8; ++parts) {
    std::vector<std::vector<int64_t>> cut(static_cast<size_t>(parts));
    int64_t sum = 0;
    for (const int64_t length : lengths) {
      cut[static_cast<size_t>(std::min(parts - 1, (sum + length / 2) * parts / tokens))].push_back(length);
      sum += length;
    }
    double ms = 0;
    for (const auto& part : cut) {
      const auto assigned = assign_sequences(cost, full_attention(part), 64, {.solver = false});
      ms += assigned ? assigned->milliseconds : INFINITY;
    }
    if (!std::isfinite(ms)) continue;
    ++tried;
    best = std::min(best, ms);
  }
  return best;
}

std::vector<int64_t> evenly_padded(const std::vector<int64_t>& lengths, int64_t buckets) {
  const int64_t width = (*std::ranges::max_element(lengths) + buckets - 1) / buckets;
  std::vector<int64_t> out;
  for (const int64_t length : lengths) out.push_back((length + width - 1) / width * width);
  return out;
}

void ablation_table(const std::filesystem::path& data) {
  std::printf(
      "\nWhat of it does how much, ms a step, and tokens that buckets add:\n\n| lengths | true lengths, sorted | not "
      "sorted | buckets of least padding | tokens more | buckets of one width | tokens more | CPU s a plan |\n"
      "|---|---|---|---|---|---|---|---|\n");
  for_each_corpus(data, [](const std::string& corpus, const Draw& draw_length) {
    const SequenceCost cost = cost_7b();
    double sorted = 0, unsorted = 0, best = 0, even = 0, best_padding = 0, even_padding = 0, tokens = 0, seconds = 0;
    for (const std::vector<int64_t>& lengths : draw_batches(draw_length, 65536)) {
      const std::clock_t start = std::clock();
      sorted += step_ms(cost, lengths);
      seconds += static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
      unsorted += step_ms_unsorted(cost, lengths);
      const int64_t buckets = adaptive_buckets(lengths, 64 * cost.tokens_per_rank);
      const auto by_padding = padded_lengths(lengths, buckets), by_width = evenly_padded(lengths, buckets);
      best += step_ms_by(cost, lengths, by_padding);
      even += step_ms_by(cost, lengths, by_width);
      const auto sum = [](const std::vector<int64_t>& all) { return std::accumulate(all.begin(), all.end(), 0.0); };
      tokens += sum(lengths);
      best_padding += sum(by_padding) - sum(lengths);
      even_padding += sum(by_width) - sum(lengths);
    }
    std::printf("| %s | %.0f | %.0f | %.0f | %.1f%% | %.0f | %.0f%% | %.2f |\n", corpus.c_str(), sorted / 5,
                unsorted / 5, best / 5, 100 * best_padding / tokens, even / 5, 100 * even_padding / tokens,
                seconds / 5);
  });
}

// ---- waves ----

MetaOp module(const std::string& name, int64_t layers, double work, double fixed, int64_t most,
              std::vector<size_t> deps) {
  MetaOp op{.name = name, .layers = layers, .ms = {}, .deps = std::move(deps)};
  for (int64_t n = 1; n <= most; n *= 2) op.ms[n] = work / static_cast<double>(n) + fixed;
  return op;
}

/// Towers of several modalities that meet in a loss, or in a language model.
std::vector<MetaOp> graph(const std::string& kind, int64_t ranks) {
  std::vector<MetaOp> ops;
  const double work[] = {60, 24, 90, 40, 12, 70, 30, 18, 50, 20};
  const int64_t layers[] = {24, 12, 24, 12, 6, 12, 12, 6, 12, 8};
  if (kind.starts_with("CLIP")) {
    const size_t count = std::stoul(kind.substr(5));
    for (size_t m = 0; m < count; ++m)
      ops.push_back(module(fmt::format("tower{}", m), layers[m], work[m], 0.4, m % 3 == 1 ? ranks / 4 : ranks, {}));
    for (size_t m = 1; m < count; ++m) ops.push_back(module(fmt::format("loss{}", m), 1, 2, 0.2, 8, {0, m}));
  } else if (kind == "OFASys-like") {
    for (size_t m = 0; m < 6; ++m)
      ops.push_back(module(fmt::format("adaptor{}", m), 4, work[m] / 2, 0.4, ranks / 2, {}));
    for (size_t m = 0; m < 6; ++m)
      ops.push_back(module(fmt::format("lm{}", m), 24, 40 + 6 * static_cast<double>(m), 0.6, ranks, {m}));
  } else {
    for (size_t m = 0; m < 2; ++m)
      ops.push_back(module(m == 0 ? "vit" : "audio", 32, 80 - 40 * static_cast<double>(m), 0.5, ranks, {}));
    for (size_t m = 0; m < 3; ++m)
      ops.push_back(module(fmt::format("llm{}", m), 32, 110 + 30 * static_cast<double>(m), 0.8, ranks,
                           m < 2 ? std::vector<size_t>{m} : std::vector<size_t>{0, 1}));
  }
  return ops;
}

double quickest(const MetaOp& op) {
  double least = INFINITY;
  for (const auto& [n, ms] : op.ms) least = std::min(least, ms);
  return static_cast<double>(op.layers) * least;
}

/// A module a group of ranks that stays its own: sizes grow while the longest chain of them shrinks.
double coarse(const std::vector<MetaOp>& ops, int64_t ranks) {
  std::vector<int64_t> size(ops.size(), 1);
  const auto step = [&](const std::vector<int64_t>& sizes) {
    std::vector<double> end(ops.size(), 0);
    double last = 0;
    for (const size_t m : order_of(ops)) {
      double start = 0;
      for (const size_t dep : ops[m].deps) start = std::max(start, end[dep]);
      end[m] = start + static_cast<double>(ops[m].layers) * ops[m].ms.at(sizes[m]);
      last = std::max(last, end[m]);
    }
    return last;
  };
  int64_t used = static_cast<int64_t>(ops.size());
  for (bool grown = true; grown;) {
    grown = false;
    size_t best = ops.size();
    double least = step(size);
    for (size_t m = 0; m < ops.size(); ++m) {
      if (!ops[m].ms.contains(2 * size[m]) || used + size[m] > ranks) continue;
      auto sizes = size;
      sizes[m] *= 2;
      if (const double ms = step(sizes); ms < least) least = ms, best = m;
    }
    if (best < ops.size()) used += size[best], size[best] *= 2, grown = true;
  }
  return step(size);
}

void wave_table() {
  std::printf(
      "\nms a step:\n\n| graph | ranks | sequential | a task after the other | a module a group | waves | bound | over "
      "sequential |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
  for (const char* kind : {"CLIP-4", "CLIP-7", "CLIP-10", "OFASys-like", "QWen-VAL-like"}) {
    for (const int64_t ranks : {16, 64}) {
      const std::vector<MetaOp> ops = graph(kind, ranks);
      double sequential = 0, tasks = 0;
      for (const MetaOp& op : ops) sequential += quickest(op);
      // A task: an op that nothing needs, with all that it needs and no earlier task had.
      std::vector<bool> done(ops.size(), false);
      for (size_t m = 0; m < ops.size(); ++m) {
        if (std::ranges::any_of(ops, [&](const MetaOp& op) { return std::ranges::find(op.deps, m) != op.deps.end(); }))
          continue;
        std::vector<MetaOp> task;
        for (const size_t dep : ops[m].deps) {
          if (!done[dep]) task.push_back(ops[dep]);
          done[dep] = true;
        }
        if (!task.empty()) tasks += schedule_waves(task, ranks).milliseconds;
        tasks += quickest(ops[m]);
      }
      const WaveSchedule waves = schedule_waves(ops, ranks);
      const std::string apart = std::ssize(ops) <= ranks ? fmt::format("{:.0f}", coarse(ops, ranks)) : "-";
      std::printf("| %s | %ld | %.0f | %.0f | %s | %.0f | %.0f | %.2fx |\n", kind, static_cast<long>(ranks), sequential,
                  tasks, apart.c_str(), waves.milliseconds, waves.lower_bound, sequential / waves.milliseconds);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    plan_tables();
    const std::filesystem::path data = argc > 1 ? argv[1] : "tests/data/planner";
    sequence_table(data);
    ablation_table(data);
    wave_table();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_planner_tables: %s\n", error.what());
    return 1;
  }
  return 0;
}
