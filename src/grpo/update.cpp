#include "grpo/update.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>

#include "base/fault.h"
#include "base/interleave.h"
#include "base/signals.h"
#include "grpo/micro_batch.h"
#include "grpo/pack.h"
#include "grpo/pipeline.h"
#include "grpo/recompute.h"
#include "optim/clipped_step.h"
#include "policy/sharded.h"
#include "runtime/ranks.h"
#include "runtime/workers.h"

namespace unigrpo::grpo {
namespace {

using rollout::Trajectory;

/// What the reference says of the same actions.
Recomputed of_reference(const UpdateSetup& setup, const PackedBatch& packed) {
  const at::NoGradGuard no_grad;
  const Reference reference(setup);
  return recompute(reference.policy, setup.rollout, packed);
}

/// Whether ranks meet within micro-batches, so that all need as many of them.
bool meets_within(const policy::UnifiedPolicy& policy) {
  return policy.sharded() && policy.sharded()->passes_together();
}
bool meets_within(const UpdateSetup& setup) {
  return meets_within(setup.policy) || (setup.reference && meets_within(*setup.reference));
}

/// While it lives, so many neighbours share the sequences of the policies' passes.
class SharedBy {
 public:
  SharedBy(const UpdateSetup& setup, int64_t degree) : setup_(setup), degree_(degree) { share(degree); }
  ~SharedBy() { share(1); }
  SharedBy(const SharedBy&) = delete;
  SharedBy& operator=(const SharedBy&) = delete;

  /// Whether this rank speaks for them.
  bool tells() const { return setup_.runtime.mesh.rank % degree_ == 0; }

 private:
  void share(int64_t degree) {
    if (degree_ == 1) return;
    setup_.policy.share_sequences(degree);
    if (setup_.reference) setup_.reference->share_sequences(degree);
  }

  const UpdateSetup& setup_;
  const int64_t degree_;
};

/// How many ranks are grouped anew for a micro-batch.
int64_t degree_of(const Minibatch& part, size_t micro_batch) {
  return part.degrees.empty() ? 1 : part.degrees[micro_batch];
}

/// Whether sums have the same bits on any power of two of ranks.
bool sums_in_pairs(const UpdateSetup& setup) {
  return setup.policy.sharded() && setup.policy.sharded()->sum() == parallel::Sum::pairwise;
}

/// Micro-batches at once; each on a thread of its own where there are several. Ranks that meet within them call each
/// other from one thread.
int64_t num_workers(const UpdateSetup& setup) {
  if (setup.plan || meets_within(setup) || shares_sequences(setup.runtime) || has_stages(setup.runtime)) return 1;
  const bool small = policy::is_small(setup.policy) && (!setup.reference || policy::is_small(*setup.reference));
  return small && !setup.policy.recomputes() ? num_threads(setup.runtime) : 1;
}

using MicroBatches = std::vector<std::vector<int64_t>>;  // rows of the trajectories

/// Those of the rows that this rank holds.
std::vector<int64_t> held_of(std::span<const Trajectory> trajectories, std::vector<int64_t> rows) {
  std::erase_if(rows, [&](int64_t row) { return trajectories[row].is_outline; });
  return rows;
}

/// A turn for each block of as many groups as there are ranks: of the rows, those of this rank's group in it.
MicroBatches group_by_turns(const Runtime& runtime, std::span<const Trajectory> trajectories,
                            const std::vector<int64_t>& rows) {
  const int64_t num_ranks = runtime.mesh.world_size, num_groups = trajectories.back().prompt_index + 1;
  MicroBatches turns(static_cast<size_t>((num_groups + num_ranks - 1) / num_ranks));
  for (const int64_t row : held_of(trajectories, rows)) {
    turns[static_cast<size_t>(trajectories[row].prompt_index / num_ranks)].push_back(row);
  }
  return turns;
}

/// Forward and backward of a micro-batch, after the reference's forward where one is needed. `rows`: none where other
/// ranks have more micro-batches; it joins them in both passes nevertheless, as it does where a stop ends its own work,
/// which it tells once they are through.
void pass_over(const Batch& batch, const MinibatchLoss& minibatch, const std::vector<int64_t>& rows, Numbers& numbers) {
  const UpdateSetup& setup = batch.setup;
  std::optional<PackedBatch> packed;
  Recomputed reference;
  bool interrupted = false;
  if (needs_reference(setup.config, setup.rollout)) {
    interrupted = !completed([&] {
      policy::in_pass(Reference::of(setup), /*with_backward=*/false, [&] {
        if (rows.empty()) return;
        packed = pack_for(setup, batch.trajectories, rows);
        reference = of_reference(setup, *packed);
      });
      return true;
    });
  }
  policy::in_pass(setup.policy, /*with_backward=*/true, [&] {
    if (interrupted) throw Interrupted("a micro-batch");
    if (rows.empty()) return;
    if (!packed) packed = pack_for(setup, batch.trajectories, rows);
    const Recomputed now = recompute(setup.policy, setup.rollout, *packed);
    const at::Tensor loss = loss_of(batch, minibatch, *packed, now, reference, numbers);
    if (loss.defined() && loss.requires_grad()) loss.backward();
  });
}

/// Leaves the mini-batch's gradients in the parameters. False: a stop came. Throws Interrupted where one came within a
/// micro-batch.
bool one_by_one(const Batch& batch, const MinibatchLoss& minibatch, const Minibatch& part, UpdateStats& stats,
                UpdateStats& differences) {
  const Runtime& runtime = batch.setup.runtime;
  Numbers numbers;
  for (const auto& rows : part.micro_batches) {
    if (stop_before_pass(runtime)) return false;
    fault::point("update.micro_batch");
    pass_over(batch, minibatch, rows, numbers);
  }
  numbers.read_into(stats, differences);
  return true;
}

/// Adds up the numbers of all ranks' micro-batches, turn by turn, in the order of the groups.
void add_by_turns(const Runtime& runtime, const std::vector<UpdateStats>& own, UpdateStats& sums) {
  const auto of_ranks = gather(runtime, own, "losses");
  for (size_t turn = 0; turn < own.size(); ++turn) {
    for (const std::vector<UpdateStats>& of_rank : of_ranks) {
      for (const auto& [name, value] : of_rank[turn]) sums[name] += value;
    }
  }
}

/// The same where ranks meet within passes: each makes as many as any.
bool one_by_one_together(const Batch& batch, const MinibatchLoss& minibatch, const Minibatch& part, UpdateStats& stats,
                         UpdateStats& differences) {
  const Runtime& runtime = batch.setup.runtime;
  const MicroBatches& micro_batches = part.micro_batches;
  Numbers numbers, others;
  size_t turns = 0;
  for (const uint64_t count : gather(runtime, static_cast<uint64_t>(micro_batches.size()), "micro-batches")) {
    turns = std::max<size_t>(turns, count);
  }
  std::vector<UpdateStats> of_turns;
  for (size_t turn = 0; turn < turns; ++turn) {
    if (stop_asked(runtime)) return false;
    const auto rows = turn < micro_batches.size() ? micro_batches[turn] : std::vector<int64_t>();
    if (!rows.empty()) fault::point("update.micro_batch");
    const SharedBy shared(batch.setup, degree_of(part, turn));
    const auto pass = [&] {
      pass_over(batch, minibatch, rows, shared.tells() ? numbers : others);
      return true;
    };
    completed(pass);  // or a stop is asked for, which all see before the next turn
    if (sums_in_pairs(batch.setup)) numbers.read_into(of_turns.emplace_back(), differences);
  }
  if (stop_asked(runtime)) return false;
  if (sums_in_pairs(batch.setup)) {
    add_by_turns(runtime, of_turns, stats);
  } else {
    numbers.read_into(stats, differences);
  }
  return true;
}

/// Adds up what micro-batches leave, in their order, whatever the order in which they come; at most `room` wait.
class OrderedSum {
 public:
  struct Part {
    std::vector<at::Tensor> grads = {};  // of the parameters; empty where nothing was trained
    UpdateStats stats = {}, differences = {};
  };

  OrderedSum(const NamedTensors& parameters, int64_t room) : parameters_(parameters), room_(room) {}

  /// Waits until the sum is near enough for the numbers of micro-batch `index` to be kept. False: nothing is to come.
  bool await_turn(int64_t index) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_ || index < next_ + room_; });
    return !ended_;
  }
  void add(int64_t index, Part part) {
    const at::NoGradGuard no_grad;
    const std::lock_guard lock(mutex_);
    waiting_[index] = std::move(part);
    for (auto it = waiting_.find(next_); it != waiting_.end(); it = waiting_.find(++next_)) {
      take(it->second);
      waiting_.erase(it);
    }
    changed_.notify_all();
  }
  int64_t num_added() const { return next_; }
  /// Nobody waits any more.
  void end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

  UpdateStats stats, differences;

 private:
  void take(const Part& part) {
    for (size_t i = 0; i < part.grads.size(); ++i) {
      if (!part.grads[i].defined()) continue;
      at::Tensor& sum = parameters_[i].tensor.mutable_grad();
      if (sum.defined()) {
        sum.add_(part.grads[i]);
      } else {
        sum = part.grads[i].clone(at::MemoryFormat::Contiguous);  // parameters may share a gradient
      }
    }
    for (const auto& [name, value] : part.stats) stats[name] += value;
    for (const auto& [name, value] : part.differences) differences[name] = std::max(differences[name], value);
  }

  const NamedTensors& parameters_;
  const int64_t room_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Part> waiting_;
  int64_t next_ = 0;
  bool ended_ = false;
};

/// one_by_one with the same bits, on workers.
bool on_workers(const Batch& batch, const MinibatchLoss& minibatch, const Minibatch& part, UpdateStats& stats,
                UpdateStats& differences) {
  const UpdateSetup& setup = batch.setup;
  const MicroBatches& micro_batches = part.micro_batches;
  const auto count = static_cast<int64_t>(micro_batches.size());
  // The reference may be the policy with its adapters off, for all threads alike: before any that needs them on.
  std::vector<Recomputed> references(micro_batches.size());
  if (needs_reference(setup.config, setup.rollout)) {
    const Reference reference(setup);
    run_tasks(batch.workers, count, [&](int64_t i, int64_t /*worker*/) {
      if (setup.runtime.stop.requested()) return;
      const at::NoGradGuard no_grad;
      references[i] = recompute(reference.policy, setup.rollout, pack_for(setup, batch.trajectories, micro_batches[i]));
    });
  }
  NamedTensors trained;  // whole ones, whatever the optimizer has
  std::vector<at::Tensor> leaves;
  for (const NamedTensor& parameter : setup.policy.parameters()) {
    if (!parameter.tensor.requires_grad()) continue;
    trained.push_back(parameter);
    leaves.push_back(parameter.tensor);
  }
  OrderedSum sum(trained, 2 * batch.workers);
  sum.stats = std::move(stats);
  run_tasks(batch.workers, count, [&](int64_t i, int64_t /*worker*/) {
    if (setup.runtime.stop.requested()) sum.end();
    if (!sum.await_turn(i)) return;
    try {
      fault::point("update.micro_batch");
      const PackedBatch packed = pack_for(setup, batch.trajectories, micro_batches[i]);
      OrderedSum::Part own;
      Numbers numbers;
      const Recomputed now = recompute(setup.policy, setup.rollout, packed);
      const at::Tensor loss = loss_of(batch, minibatch, packed, now, references[i], numbers);
      numbers.read_into(own.stats, own.differences);
      if (loss.defined() && loss.requires_grad()) {
        own.grads =
            torch::autograd::grad({loss}, leaves, {}, std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
      }
      sum.add(i, std::move(own));
    } catch (...) {
      sum.end();
      throw;
    }
  });
  stats = std::move(sum.stats);
  differences = std::move(sum.differences);
  return sum.num_added() == count;
}

/// Numbers the groups, prompt -> number, so that those of each task are spread evenly. Returns how many there are.
int64_t number_evenly(std::span<const Trajectory> trajectories, std::map<int64_t, int64_t>& groups) {
  std::map<int64_t, int64_t> task_of;
  for (const Trajectory& trajectory : trajectories) task_of[trajectory.prompt_index] = trajectory.task;
  std::map<int64_t, std::vector<int64_t>> of_task;
  for (const auto& [prompt, place] : groups) of_task[task_of.at(prompt)].push_back(prompt);
  std::vector<size_t> sizes;
  std::vector<int64_t> prompts;
  for (const auto& [task, own] : of_task) {
    sizes.push_back(own.size());
    prompts.insert(prompts.end(), own.begin(), own.end());
  }
  int64_t number = 0;
  for (const size_t place : interleaved(sizes)) groups.at(prompts[place]) = number++;
  return number;
}

}  // namespace

std::vector<Minibatch> plan_update(const GrpoConfig& config, std::span<const Trajectory> trajectories,
                                   const std::vector<bool>& keep) {
  std::map<int64_t, int64_t> groups;  // those that are kept, in order: prompt -> its place among them
  int64_t num_rows = 0;
  for (size_t i = 0; i < trajectories.size(); ++i) {
    if (!keep[i]) continue;
    groups[trajectories[i].prompt_index] = 0;
    ++num_rows;
  }
  const int64_t num_groups = number_evenly(trajectories, groups);
  // Whole groups, evenly; where too few are left for all optimizer steps, their rows.
  const bool by_group = num_groups >= config.num_minibatches;
  const int64_t pieces = by_group ? num_groups : num_rows;
  const int64_t updates = std::min(config.num_minibatches, pieces);
  std::vector<Minibatch> plan(static_cast<size_t>(updates));
  int64_t row = 0;
  for (size_t i = 0; i < trajectories.size(); ++i) {
    if (!keep[i]) continue;
    const int64_t piece = by_group ? groups.at(trajectories[i].prompt_index) : row++;
    plan[static_cast<size_t>(((piece + 1) * updates - 1) / pieces)].rows.push_back(static_cast<int64_t>(i));
  }
  for (Minibatch& minibatch : plan) {
    minibatch.micro_batches =
        plan_micro_batches(trajectories, held_of(trajectories, minibatch.rows), config.micro_batch_tokens);
  }
  return plan;
}

LogProbNoise measure_log_prob_noise(const UpdateSetup& setup, std::span<const Trajectory> trajectories) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> all(trajectories.size());
  std::iota(all.begin(), all.end(), 0);
  Minibatch first;
  if (!setup.plan) {
    first.micro_batches = plan_micro_batches(trajectories, held_of(trajectories, all), setup.config.micro_batch_tokens);
  } else if (!setup.plan->empty()) {
    first = setup.plan->front();
  }
  const SharedBy shared(setup, first.degrees.empty() ? 1 : first.degrees.front());
  tensor::Readings differences;
  const auto rows = first.micro_batches.empty() ? std::vector<int64_t>() : first.micro_batches.front();
  const bool measured = uninterrupted(setup.runtime, [&] {
    if (has_stages(setup.runtime)) {
      compare_through_stages(setup, trajectories, rows, differences);
      return true;
    }
    policy::in_pass(setup.policy, /*with_backward=*/false, [&] {
      if (rows.empty()) return;
      const PackedBatch packed = pack_for(setup, trajectories, rows);
      const Recomputed now = recompute(setup.policy, setup.rollout, packed);
      require_same_fingerprint(setup.policy, setup.rollout, trajectories, packed, now, setup.policy.weights_version());
      note_log_prob_diff(packed, now, differences);
    });
    return true;
  });
  if (!measured) throw Interrupted("the log-prob noise was being measured");
  UpdateStats turns;
  for (const auto& [name, value] : differences.read()) turns[name] = std::max(turns[name], value);
  LogProbNoise noise;
  for (const auto& [name, value] : largest(setup.runtime, turns, "log-prob noise")) {
    using Of = std::pair<const char*, double LogProbNoise::*>;
    for (const auto& [modality, own] : {Of("text", &LogProbNoise::text), Of("image", &LogProbNoise::image),
                                        Of("video", &LogProbNoise::video), Of("audio", &LogProbNoise::audio)}) {
      if (name.ends_with(std::string(modality) + "/log_prob_diff")) noise.*own = std::max(noise.*own, value);
    }
  }
  return noise;
}

std::optional<UpdateStats> update(const UpdateSetup& setup, std::span<const Trajectory> trajectories,
                                  const Advantages& advantages, double lr_factor) {
  auto plan = setup.plan ? *setup.plan : plan_update(setup.config, trajectories, advantages.keep);
  const bool in_pairs = sums_in_pairs(setup);
  const Batch batch{.setup = setup,
                    .trajectories = trajectories,
                    .weights_version = setup.policy.weights_version(),
                    .workers = num_workers(setup)};
  UpdateStats stats, noise;  // of the rows held here
  UpdateStats steps;         // of the optimizer
  double micro_batches = 0;
  const bool meets = setup.plan || meets_within(setup);
  const auto run = has_stages(setup.runtime) ? through_stages
                   : batch.workers > 1       ? on_workers
                   : meets                   ? one_by_one_together
                                             : one_by_one;
  for (size_t u = 0; u < plan.size(); ++u) {
    if (in_pairs) plan[u].micro_batches = group_by_turns(setup.runtime, trajectories, plan[u].rows);
    const MinibatchLoss minibatch(setup.config, setup.rollout, advantages,
                                  count_turns(setup.config, trajectories, plan[u].rows));
    optim::drop_gradients(setup.optimizer, setup.policy.sharded());
    UpdateStats differences;
    std::optional<policy::Gathered> whole;  // as all ranks' pieces are now
    if (!meets_within(setup)) whole.emplace(setup.policy, policy::Gathered::Form::slices);
    const bool complete =
        uninterrupted(setup.runtime, [&] { return run(batch, minibatch, plan[u], stats, differences); });
    if (!complete) {
      optim::drop_gradients(setup.optimizer, setup.policy.sharded());
      return std::nullopt;
    }
    if (u == 0) noise = std::move(differences);  // the weights were still the rollout's
    for (size_t i = 0; i < plan[u].micro_batches.size(); ++i) {
      // For those that share it.
      const bool counts = setup.runtime.mesh.rank % degree_of(plan[u], i) == 0 && in_last_stage(setup.runtime);
      if (counts && !plan[u].micro_batches[i].empty()) ++micro_batches;
    }
    optim::clipped_step(setup.optimizer, setup.clip, setup.runtime, lr_factor, steps, setup.policy.sharded());
  }
  if (!in_pairs) stats = summed(setup.runtime, stats, "losses");
  stats.merge(steps);
  if (!plan.empty()) {
    for (auto& [name, value] : stats) value /= static_cast<double>(plan.size());
    stats.merge(largest(setup.runtime, noise, "log-prob noise"));
  }
  stats.merge(summed(setup.runtime, {{"optim/micro_batches", micro_batches}}, "losses"));
  stats["optim/skipped"] = static_cast<double>(setup.clip.skipped());
  return stats;
}

}  // namespace unigrpo::grpo
