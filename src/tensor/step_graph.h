#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <utility>
#include <vector>

namespace unigrpo::tensor {

/// What a piece of work asks of its device, recorded once and played back without asking again.
class StepGraph {
 public:
  virtual ~StepGraph() = default;
  /// Runs `body` once as it is recorded; what it makes is there when this returns. It must copy nothing to the host,
  /// and what it reads must stay where it is.
  virtual void record(const std::function<void()>& body) = 0;
  /// Does it all again on what stands in the same memory now.
  virtual void play() = 0;
};

/// Makes a graph; empty: steps are not recorded.
using MakeGraph = std::function<std::unique_ptr<StepGraph>()>;

/// Graphs of a CUDA device, which share the memory of what lives only within a step: their results are copied before
/// another one plays. Throws std::logic_error for other devices.
MakeGraph graphs_of(at::Device device);

/// A function of tensors whose shapes stay: called as it is a few times, then recorded, then played back with the
/// inputs copied to where the recorded step reads them. The same function each time, hence the same bits.
class RecordedStep {
 public:
  using Step = std::function<at::Tensor(const std::vector<at::Tensor>&)>;
  /// `plain_calls`: before it is recorded, at least one where the function makes anything that it keeps.
  RecordedStep(MakeGraph make, Step step, int64_t plain_calls)
      : make_(std::move(make)), step_(std::move(step)), plain_calls_(plain_calls) {}

  /// The caller's own tensor. Inputs: contiguous, of the same shapes and on the same device as ever.
  at::Tensor operator()(const std::vector<at::Tensor>& inputs);

 private:
  MakeGraph make_;
  Step step_;
  int64_t plain_calls_;
  std::vector<at::Tensor> inputs_;
  at::Tensor output_;
  std::unique_ptr<StepGraph> graph_;  // first of all to go: it uses the tensors
};

/// Recorded steps by shape, the latest used ones.
class RecordedSteps {
 public:
  static constexpr size_t kMostShapes = 32;

  void set(MakeGraph make) {
    make_ = std::move(make);
    forget();
  }
  bool on() const { return static_cast<bool>(make_); }
  const MakeGraph& make() const { return make_; }
  /// What was recorded reads memory that is another's now.
  void forget() { steps_.clear(); }
  RecordedStep& of(const std::vector<int64_t>& shape, const RecordedStep::Step& step, int64_t plain_calls);
  size_t size() const { return steps_.size(); }

 private:
  MakeGraph make_;
  std::list<std::pair<std::vector<int64_t>, RecordedStep>> steps_;  // the latest used one first
};

}  // namespace unigrpo::tensor
