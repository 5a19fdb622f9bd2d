#pragma once

#include <cstdint>
#include <vector>

#include "planner/flexible_sequence.h"
#include "planner/sequence_costs.h"

namespace unigrpo::planner {

/// A sample of an optimizer step. Samples of different kinds are not packed together; those of a prompt have its prefix
/// once where they are.
struct StepSample {
  int64_t row = 0, kind = 0, prompt = 0;
  Sequence size;         // with the prefix
  Sequence prefix = {};  // alone
};

/// How the ranks take the samples of an optimizer step, turn by turn: in each all at once, as groups of neighbours from
/// rank 0 on, the widest first, so that a group of 2, 4, 8, ... ranks begins at a multiple of its size.
struct StepGroups {
  std::vector<std::vector<SequenceGroup>> turns = {};  // sequences are rows
  double milliseconds = 0, lower_bound = 0;            // of the turns, as planned; no other groups of them are quicker
  int64_t tokens_per_rank = 0;                         // that the plan keeps to
  int64_t most_tokens = 0;                             // of a rank in a turn

  StepGroups& operator+=(const StepGroups& next);
};

/// Samples of a prompt stay together as one sequence, the prefix counted once, while they take at most half of a rank's
/// tokens, or twice what one of them does of which the prefix is half or more.
///
/// A rank has at most cost.tokens_per_rank tokens in a turn; where a sample is longer than all ranks may have, as many
/// as it needs. Each sample once. A function of its input alone. Throws BadInput where samples are too short or `ranks`
/// or degrees are none.
StepGroups group_step(const SequenceCosts& costs, const std::vector<StepSample>& samples, int64_t ranks);

}  // namespace unigrpo::planner
