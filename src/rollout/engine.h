#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/prompt.h"
#include "flow/config.h"
#include "policy/policy.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"
#include "runtime/runtime.h"

namespace unigrpo::rollout {

/// Of a group's samples 0..G-1.
struct SampleRange {
  int64_t first = 0, count = 0;
  bool operator==(const SampleRange&) const = default;
};

/// What to sample.
struct RolloutRequest {
  std::span<const data::Prompt> prompts;         // [P]
  std::vector<uint64_t> keys;                    // [P] random stream of each prompt
  int64_t group_size = 1;                        // G episodes a prompt
  int64_t first_sample = 0;                      // of their sample indices
  std::vector<SampleRange> ranges = {};          // [P] or empty: no more of each group than this, none where count = 0
  uint64_t step = 0;                             // of the run; part of every random key
  bool stochastic = true;                        // false: no SDE window, every denoising step is an ODE step
  flow::GuidanceConfig guidance;                 // sample, eval and one ablation only
  std::vector<std::string> teacher_forced_text;  // [P] or empty: the first text segment is this instead of sampled
  /// Called when all episodes of prompt `p` that are asked for are done and their images decoded, while others may
  /// still be sampled: judging can begin. One call at a time, in whichever thread sampled them, prompts in any order.
  std::function<void(int64_t p, std::vector<data::Sample> group)> on_group = {};
};

/// The size of an episode's clips; nothing where it has none. Throws BadInput where the model cannot draw them.
std::optional<policy::ClipShape> clip_of(policy::UnifiedPolicy& policy, const RolloutConfig& config);

/// Samples groups of episodes by rollout.episode. The result depends on (policy, config, seed, request) alone; how
/// many rows run together follows from config.token_budget and the number of workers, never from free memory or time.
///
/// Of a small model (policy::is_small), whose bits do not depend on that either, groups of prompts are sampled by
/// workers, one a thread of the runtime and each with a single-threaded model, a cache and a share of the token budget
/// of its own.
///
/// Ranks that share sequences make the same call; each has the queries of some rows of every image that is denoised.
///
/// A denoised image that others follow is decoded, read again by the policy's own rule for images and appended to the
/// context as VAE tokens (posterior mean) and vision tokens; what follows attends to both. An episode's images have the
/// size of its prompt's last one (as the policy reads it), without one config.image_size.
///
/// Guidance holds a context without text, which has the system prompt and all images, and one without images, which has
/// the system prompt and the prompt: those of the inference code published with BAGEL (arXiv 2505.14683), where images
/// of later turns count as the prompt's.
class RolloutEngine {
 public:
  /// `system_prompt`: text block before every prompt; empty = none.
  RolloutEngine(policy::UnifiedPolicy& policy, const RolloutConfig& config, const Runtime& runtime,
                const std::string& system_prompt);

  /// Where weights are spread over ranks, all call it, and have them whole until it returns.
  ///
  /// P x G trajectories (of the ranges, where there are some), group by group, images decoded. Empty where the
  /// runtime's stop token came meanwhile: it is asked before each decode step and each denoising step. Throws BadInput
  /// naming the file of a prompt's image that cannot be read.
  std::vector<Trajectory> rollout(const RolloutRequest& request);

  /// What an episode has read before its first segment: [system block] [the prompt's images] prompt block. Images come
  /// as VAE tokens only where the episode has images.
  std::vector<policy::Block> prefix(const data::Prompt& prompt) const;

  /// Throws BadInput naming the prompt where an episode may come to need more positions than the policy has. Reads no
  /// images.
  void check_length(const data::Prompt& prompt) const;

 private:
  std::vector<policy::Block> prefix(const data::Prompt& prompt, std::span<const Image> images) const;
  std::vector<Trajectory> sample(policy::UnifiedPolicy& policy, const RolloutConfig& config,
                                 const RolloutRequest& request, std::span<const int64_t> prompts) const;

  policy::UnifiedPolicy& policy_;
  RolloutConfig config_;
  Runtime runtime_;
  std::vector<policy::Block> system_;  // the system prompt's block, or none
  const int64_t num_workers_;
  std::vector<std::unique_ptr<policy::UnifiedPolicy>> shared_;  // of the workers but the first
};

}  // namespace unigrpo::rollout
