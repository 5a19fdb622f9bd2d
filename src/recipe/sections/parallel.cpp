#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using parallel::ParallelConfig;

constexpr double kOneDay = 86400, kMostRanks = 1024;

Section parallel_section() {
  return Builder("parallel", "a run on several ranks; one process ignores it",
                 [](Recipe& r, size_t) -> auto& { return r.parallel; })
      .row("backend", &ParallelConfig::backend,
           "what ranks talk over: gloo between CPUs, nccl between GPUs, auto as policy.device asks")
      .row("shard", &ParallelConfig::shard,
           "what a rank holds a share of alone: nothing | the optimizer's state | gradients too | weights too")
      .row("shard_ranks", &ParallelConfig::shard_ranks,
           "neighbours that share, each block of them holding all; 0: all ranks are one block", between(0, kMany))
      .row("reduce", &ParallelConfig::reduce,
           "with shared gradients or weights: summed after each micro-batch, or once a step (whole gradients are kept)")
      .row("exact_reduction", &ParallelConfig::exact_reduction,
           "the bits of any other power of two of ranks, one process too: a micro-batch is one prompt's group, and "
           "gradients are summed in pairs; with shard = none gradients are shared all the same")
      .row("tp", &ParallelConfig::tp,
           "neighbours that each multiply with a slice of every layer; divides the ranks and the model's key heads",
           between(1, kMostRanks))
      .row("sp", &ParallelConfig::sp,
           "ranks (with tp: sets of tp) that share each training batch's tokens; divides the ranks and query heads",
           between(1, kMostRanks))
      .row("rollout", &ParallelConfig::rollout,
           "with tp, how texts and images are drawn: with all weights, gathered once a phase | in slices, by tp ranks "
           "together")
      .row("plan", &ParallelConfig::plan,
           "JSON file with shard, tp, sp, recompute and pipeline stage of each layer, or of `unigrpo plan --json` "
           "(docs/FORMATS.md); empty: alike for all, one stage")
      .row("reward_ranks", &ParallelConfig::reward_ranks,
           "the last so many ranks judge what the others draw, while these draw; 0: each rank judges its own",
           between(0, kMostRanks))
      .row("flexible_sp", &ParallelConfig::flexible_sp,
           "sp chosen anew for each micro-batch of an update: blocks of 1, 2, 4, ... ranks share what a plan gives "
           "them, by "
           "lengths; grpo.micro_batch_tokens is a rank's then")
      .row("profile", &ParallelConfig::profile,
           "with flexible_sp: folder of `unigrpo profile`, whose times the plan goes by; empty: they are counted")
      .row("meeting_timeout_s", &ParallelConfig::meeting_timeout_s, "seconds until all ranks must have come",
           between(1, kOneDay))
      .row("first_step_timeout_s", &ParallelConfig::first_step_timeout_s,
           "seconds that a rank waits for the others in the first step, and before it", between(1, kOneDay))
      .row("step_timeout_s", &ParallelConfig::step_timeout_s,
           "the same in later steps; longer than the slowest reward may take", between(1, kOneDay))
      .row("save_timeout_s", &ParallelConfig::save_timeout_s, "the same while a checkpoint or model is written",
           between(1, kOneDay));
}

}  // namespace

std::vector<Section> parallel_sections() { return {parallel_section()}; }

}  // namespace unigrpo::recipe
