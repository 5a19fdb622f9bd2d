#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <memory>

#include "parallel/comm.h"

namespace unigrpo::parallel {

struct Groups;

/// What a rank of a pipeline exchanges with those that have its place in the stages before and after its own:
/// activations forward, their gradients back. Nothing is sent over the first and the last stage's ends.
class StageLinks {
 public:
  /// The groups have a pipeline, and outlive it.
  explicit StageLinks(const Groups& groups);

  int64_t stage() const;
  int64_t stages() const;
  bool is_first() const { return stage() == 0; }
  bool is_last() const { return stage() + 1 == stages(); }

  /// What is to come next of the stage before, and of the one after: begins to receive into these tensors, in order.
  void expect_from_previous(const at::Tensor& into);
  void expect_from_next(const at::Tensor& into);
  /// The first of them that was not taken yet, once it has come.
  at::Tensor from_previous();
  at::Tensor from_next();
  /// Returns once what was sent there before has arrived; the tensor must not change.
  void to_next(const at::Tensor& tensor);
  void to_previous(const at::Tensor& tensor);
  /// All that was sent has arrived.
  void finish();

 private:
  struct Coming {
    at::Tensor tensor;
    std::shared_ptr<Comm::Message> message;
  };
  /// One way.
  struct Link {
    Comm* ranks = nullptr;
    const char* purpose = "";
    std::deque<Coming> coming = {};
    std::shared_ptr<Comm::Message> going = nullptr;

    void expect(const at::Tensor& into, int64_t from);
    at::Tensor take();
    void send(const at::Tensor& tensor, int64_t to);
    void finish();
  };
  Link forward_, back_;
};

}  // namespace unigrpo::parallel
