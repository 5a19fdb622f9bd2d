#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "parallel/comm.h"
#include "tensor/named_tensor.h"

namespace unigrpo::parallel {

/// Parameters that the ranks of some stages of a pipeline hold.
struct StagePart {
  std::vector<int64_t> stages;  // two where the first and the last one have the same embeddings (tied)
  NamedTensors parameters;
};

/// What a rank of a pipeline knows of the model beside its own stage's weights: those of the other stages, which have
/// no memory but while they are gathered, and what is summed over stages. Parameters keep their identity. Of what
/// trains there the rank holds a piece of no elements, so that optimizer, averages and checkpoints have one list of
/// parameters on all ranks.
class OtherStages {
 public:
  /// parts: of the whole model, alike on all ranks. ranks: those with this rank's place in all stages, in their order;
  /// all of them make the same calls.
  OtherStages(std::vector<StagePart> parts, std::shared_ptr<Comm> ranks);

  int64_t stage() const { return ranks_->rank(); }
  /// Of two stages' parameters one of them speaks.
  bool counts(const std::string& name) const { return !twins_.contains(name) || stage() == 0; }
  bool is_tied(const std::string& name) const { return twins_.contains(name); }

  /// All weights are there until release(). The own stage's must be whole.
  void gather();
  void release();

  /// Pieces of what trains elsewhere, whose gradients show_gradients() sets.
  const NamedTensors& pieces() const { return pieces_; }
  /// The gradient of something tied, which both stages have alike, becomes the sum of both.
  void sum_tied(at::Tensor& gradient);
  /// had: by trained parameter of the own stage, whether it had a gradient. Returns this of all stages' parameters, and
  /// gives pieces() theirs.
  std::map<std::string, bool> show_gradients(const std::map<std::string, bool>& had);
  void drop_gradients();
  /// Added in the order of stages.
  double sum(double own) const;

 private:
  bool is_own(const StagePart& part) const;

  std::vector<StagePart> parts_;
  std::shared_ptr<Comm> ranks_;
  std::set<std::string> twins_;  // tied parameters
  at::Tensor nothing_;           // what parameters without memory show
  NamedTensors pieces_;
};

}  // namespace unigrpo::parallel
