#pragma once

#include <functional>
#include <memory>

#include "tensor/step_graph.h"

namespace unigrpo::testing {

/// Counts of all graphs that one MakeGraph made.
struct GraphCounts {
  int records = 0, plays = 0;
};

/// A graph that needs no GPU: it plays a step back by doing it again on the recorded step's own tensors, so that what
/// reads anything else of a later call gives the first call's results.
class PretendGraph final : public tensor::StepGraph {
 public:
  explicit PretendGraph(GraphCounts& counts) : counts_(counts) {}
  void record(const std::function<void()>& body) override {
    body_ = body;
    ++counts_.records;
    body_();
  }
  void play() override {
    ++counts_.plays;
    body_();
  }

 private:
  GraphCounts& counts_;
  std::function<void()> body_;
};

/// `counts` must outlive the graphs.
inline tensor::MakeGraph pretend_graphs(GraphCounts& counts) {
  return [&counts] { return std::make_unique<PretendGraph>(counts); };
}

}  // namespace unigrpo::testing
