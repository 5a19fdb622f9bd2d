#include "planner/partition.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "planner/numbers.h"
#include "planner/pipeline.h"

namespace unigrpo::planner {
namespace {

/// Sums of layers first .. last - 1 as stage s of S.
PartitionProblem::Layer stage_sums(const PartitionProblem& p, int64_t stage, int64_t first, int64_t last) {
  PartitionProblem::Layer sum;
  const auto add = [&](const PartitionProblem::Layer& layer) {
    sum.forward_ms += layer.forward_ms;
    sum.backward_ms += layer.backward_ms;
    sum.sync_ms += layer.sync_ms;
    sum.weights_mb += layer.weights_mb;
    sum.activation_mb += layer.activation_mb;
  };
  if (stage == 0) add(p.embed);
  for (int64_t i = first; i < last; ++i) add(p.layers[i]);
  if (stage == p.stages - 1) add(p.head);
  return sum;
}

double stage_mb(const PartitionProblem& p, int64_t stage, const PartitionProblem::Layer& sums) {
  const int64_t held = held_micro_batches(Schedule::one_f_one_b, p.stages, stage, p.micro_batches);
  return sums.weights_mb + static_cast<double>(held) * sums.activation_mb;
}

std::vector<PartitionProblem::Layer> all_stages(const PartitionProblem& p, const Boundaries& boundaries) {
  std::vector<PartitionProblem::Layer> out;
  for (int64_t s = 0; s < p.stages; ++s) {
    const int64_t first = s == 0 ? 0 : boundaries[s - 1];
    const int64_t last = s + 1 < p.stages ? boundaries[s] : static_cast<int64_t>(p.layers.size());
    out.push_back(stage_sums(p, s, first, last));
  }
  return out;
}

double step_of(const PartitionProblem& p, const std::vector<PartitionProblem::Layer>& stages) {
  if (p.cost == PartitionCost::galvatron) {
    std::vector<double> without, with;
    for (size_t s = 0; s < stages.size(); ++s) {
      const double compute = stages[s].forward_ms + stages[s].backward_ms;
      without.push_back(compute);
      double ends = 0;
      if (s == 0) ends += p.embed.forward_ms + p.embed.backward_ms;
      if (s + 1 == stages.size()) ends += p.head.forward_ms + p.head.backward_ms;
      with.push_back(compute - ends + stages[s].sync_ms);
    }
    return galvatron_step(without, with, p.micro_batches);
  }
  // E_i = end of stage i's last backward; step = max_i (E_i + sync of stage i)
  PipelineTimes times{.micro_batches = p.micro_batches, .forward = {}, .backward = {}, .p2p = {}};
  for (const auto& stage : stages) {
    times.forward.push_back(stage.forward_ms);
    times.backward.push_back(stage.backward_ms);
  }
  times.p2p.assign(stages.size() - 1, p.p2p_ms);
  const PipelineRun run = play_pipeline(times);
  double step = 0;
  for (size_t s = 0; s < stages.size(); ++s) step = std::max(step, run.end[s] + stages[s].sync_ms);
  return step;
}

/// Depth first over boundaries, left to right.
class Search {
 public:
  explicit Search(const PartitionProblem& problem) : p_(problem), num_layers_(std::ssize(problem.layers)) {}

  std::optional<Partition> run() {
    extend(0, 0, 0, 0);
    if (best_.step_ms == kInfinity) return std::nullopt;
    return best_;
  }

 private:
  // Of a cut whose stages 0 .. s are known, by events: stage s begins after the first forward of all before it, works
  // m (F + B), and its last backward goes on through all before it:
  //
  //   step >= sum_{j<s} (F_j + p2p) + m (F_s + B_s) + max( sync_s, sum_{j<s} (B_j + p2p) + sync_0 )
  double bound(int64_t stage, double forward_before, double backward_before,
               const PartitionProblem::Layer& sums) const {
    if (p_.cost == PartitionCost::galvatron) return 0;
    const double hops = static_cast<double>(stage) * p_.p2p_ms;
    const double sync_first = stage == 0 ? sums.sync_ms : stages_.front().sync_ms;
    return forward_before + hops + static_cast<double>(p_.micro_batches) * (sums.forward_ms + sums.backward_ms) +
           std::max(sums.sync_ms, backward_before + hops + sync_first);
  }

  void extend(int64_t stage, int64_t first, double forward_before, double backward_before) {
    const bool final = stage == p_.stages - 1;
    for (int64_t last = final ? num_layers_ : first + 1; last <= num_layers_ - (p_.stages - 1 - stage); ++last) {
      const PartitionProblem::Layer sums = stage_sums(p_, stage, first, last);
      if (stage_mb(p_, stage, sums) > p_.budget_mb) break;  // and so would every longer one
      if (bound(stage, forward_before, backward_before, sums) >= best_.step_ms) break;
      stages_.push_back(sums);
      if (final) {
        const double step = step_of(p_, stages_);
        if (step < best_.step_ms) best_ = {boundaries_, step};
      } else {
        boundaries_.push_back(last);
        extend(stage + 1, last, forward_before + sums.forward_ms, backward_before + sums.backward_ms);
        boundaries_.pop_back();
      }
      stages_.pop_back();
    }
  }

  const PartitionProblem& p_;
  const int64_t num_layers_;
  std::vector<PartitionProblem::Layer> stages_;
  Boundaries boundaries_;
  Partition best_{.boundaries = {}, .step_ms = kInfinity};
};

void check(const PartitionProblem& p) {
  if (p.stages < 1 || p.stages > std::ssize(p.layers)) {
    throw BadInput("{} layers cannot be cut into {} stages", p.layers.size(), p.stages);
  }
  if (p.micro_batches < 1) throw BadInput("micro_batches must be at least 1, got {}", p.micro_batches);
}

}  // namespace

double partition_mb(const PartitionProblem& problem, const Boundaries& boundaries) {
  const auto stages = all_stages(problem, boundaries);
  double most = 0;
  for (int64_t s = 0; s < problem.stages; ++s) most = std::max(most, stage_mb(problem, s, stages[s]));
  return most;
}

double partition_ms(const PartitionProblem& problem, const Boundaries& boundaries) {
  return step_of(problem, all_stages(problem, boundaries));
}

std::optional<Partition> best_partition(const PartitionProblem& problem) {
  check(problem);
  return Search(problem).run();
}

double least_partition_mb(const PartitionProblem& problem) {
  check(problem);
  // least[i] = least over cuts of layers 0 .. i - 1 into the stages so far of the fullest of them
  const int64_t n = std::ssize(problem.layers);
  std::vector<double> least(n + 1, kInfinity);
  least[0] = 0;
  for (int64_t s = 0; s < problem.stages; ++s) {
    std::vector<double> next(n + 1, kInfinity);
    for (int64_t first = 0; first < n; ++first) {
      if (least[first] == kInfinity) continue;
      for (int64_t last = first + 1; last <= n; ++last) {
        next[last] =
            std::min(next[last], std::max(least[first], stage_mb(problem, s, stage_sums(problem, s, first, last))));
      }
    }
    least = std::move(next);
  }
  return least[n];
}

//   r1 = sum C + C_last (k-1)
//   r2 = max(min(p-1, k-1) C_0 / 3, sum_{i>0} C_i / 3) + the same with 2/3 + C_0 max(0, k+1-p)
//   step = max(r1, r2) + max(0, max_i (W_i - sum_{j<=i} C_j))
double galvatron_step(const std::vector<double>& without_sync, const std::vector<double>& with_sync, int64_t k) {
  const auto p = static_cast<int64_t>(without_sync.size());
  const double sum = std::accumulate(without_sync.begin(), without_sync.end(), 0.0);
  const double first = without_sync.front(), others = sum - first;
  const double warm = static_cast<double>(std::min(p - 1, k - 1)) * first;
  const double r1 = sum + without_sync.back() * static_cast<double>(k - 1);
  const double r2 = std::max(warm / 3, others / 3) + std::max(warm * 2 / 3, others * 2 / 3) +
                    first * static_cast<double>(std::max<int64_t>(0, k + 1 - p));
  double tail = 0, before = 0;
  for (int64_t i = 0; i < p; ++i) {
    before += without_sync[i];
    tail = std::max(tail, with_sync[i] - before);
  }
  return std::max(r1, r2) + tail;
}

}  // namespace unigrpo::planner
