#include "tensor/step_graph.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

#ifdef UNIGRPO_CUDA
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace unigrpo::tensor {

#ifdef UNIGRPO_CUDA
namespace {

class CudaGraph final : public StepGraph {
 public:
  CudaGraph(at::Device device, c10::MempoolId_t pool) : device_(device), pool_(pool) {}

  // CUDA records no work of the default stream. Other threads may allocate meanwhile: only this one is held to what can
  // be recorded.
  void record(const std::function<void()>& body) override {
    const c10::cuda::CUDAGuard guard(device_);
    const c10::cuda::CUDAStream before = c10::cuda::getCurrentCUDAStream(device_.index());
    const c10::cuda::CUDAStream recording = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device_.index());
    wait_for(recording, before);
    {
      const c10::cuda::CUDAStreamGuard stream(recording);
      graph_.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
      try {
        body();
      } catch (...) {
        end_failed();
        throw;
      }
      graph_.capture_end();
    }
    wait_for(before, recording);
    graph_.replay();
  }

  void play() override {
    const c10::cuda::CUDAGuard guard(device_);
    graph_.replay();
  }

 private:
  static void wait_for(const c10::cuda::CUDAStream& who, const c10::cuda::CUDAStream& whom) {
    at::cuda::CUDAEvent done;
    done.record(whom);
    done.block(who);
  }
  /// What went wrong is told by whoever threw; the stream must not stay in a recording.
  void end_failed() noexcept {
    try {
      graph_.capture_end();
    } catch (const std::exception&) {
      (void)cudaGetLastError();
    }
  }

  at::Device device_;
  c10::MempoolId_t pool_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace

MakeGraph graphs_of(at::Device device) {
  if (!device.is_cuda()) throw std::logic_error("graphs are recorded on CUDA devices alone");
  return [device, pool = at::cuda::graph_pool_handle()] { return std::make_unique<CudaGraph>(device, pool); };
}
#else
MakeGraph graphs_of(at::Device /*device*/) {
  throw std::logic_error("graphs are recorded on CUDA devices alone, which this build does not know");
}
#endif

at::Tensor RecordedStep::operator()(const std::vector<at::Tensor>& inputs) {
  if (!graph_ && plain_calls_-- > 0) return step_(inputs);
  if (!graph_) {
    for (const at::Tensor& input : inputs) inputs_.push_back(input.clone());
    graph_ = make_();
    graph_->record([this] { output_ = step_(inputs_); });
    return output_.clone();
  }
  for (size_t i = 0; i < inputs.size(); ++i) inputs_.at(i).copy_(inputs[i], /*non_blocking=*/true);
  graph_->play();
  return output_.clone();  // where the next call writes
}

RecordedStep& RecordedSteps::of(const std::vector<int64_t>& shape, const RecordedStep::Step& step,
                                int64_t plain_calls) {
  const auto found = std::ranges::find(steps_, shape, [](const auto& known) { return known.first; });
  if (found != steps_.end()) {
    steps_.splice(steps_.begin(), steps_, found);
    return steps_.front().second;
  }
  if (steps_.size() == kMostShapes) steps_.pop_back();
  steps_.emplace_front(shape, RecordedStep(make_, step, plain_calls));
  return steps_.front().second;
}

}  // namespace unigrpo::tensor
