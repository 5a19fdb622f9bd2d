#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "parallel/comm.h"
#include "parallel/config.h"
#include "parallel/pairwise_sum.h"
#include "tensor/named_tensor.h"

namespace unigrpo::parallel {

/// Elements of a flat buffer that no rank's share cuts: a sum over cells, each summed by itself, has the same bits
/// however many ranks hold them.
inline constexpr int64_t kCell = 4096;

/// How the gradients of several micro-batches and ranks are added: each to what there is, those of a turn in the order
/// of ranks; or in pairs, that of rank r of D in turn j at place j x D + r, which gives the same bits for any power of
/// two D.
enum class Sum { one_by_one, pairwise };

/// Parameters as one buffer, one after another in the order given, aligned, and padded to ranks x kCell elements, of
/// which each rank owns an equal share: a 1-D piece of each parameter, often an empty one. The parameters keep their
/// identity: wherever a layer holds one, it sees the buffer, or nothing (NaN) while the buffer is released.
class FlatParameters {
 public:
  /// `ranks`: null where one rank owns all. `stays_whole`: the buffer is never released. `sum`: of gradients. What is
  /// a piece of a tensor already has pieces of that one.
  FlatParameters(NamedTensors parameters, Comm* ranks, bool stays_whole, Sum sum);

  /// The own pieces, by their parameters' names; they share memory with the own share.
  const NamedTensors& pieces() const { return pieces_; }
  const NamedTensors& parameters() const { return parameters_; }

  bool is_whole() const { return is_whole_; }
  bool trains() const { return parameters_.front().tensor.requires_grad(); }
  /// Makes the parameters whole, from all ranks' shares.
  void gather();
  /// Begins to: gather() will wait for less. The own share must not change meanwhile.
  void start_gather();
  /// Gives the buffer's memory back, where it does not stay.
  void release();
  /// The own share was written: a buffer that is whole takes those of the other ranks.
  void refresh();

  /// Sums over ranks what the parameters' gradients hold, in float32, adds the own share of it to the own gradient, and
  /// drops the parameters' gradients. All ranks call it, with or without gradients.
  void reduce_gradients();
  /// After the last of them.
  void finish_gradients();
  /// The own share of the gradients, float32; undefined before the first reduce_gradients(), and where sums are
  /// pairwise before finish_gradients().
  at::Tensor& gradient() { return gradient_; }
  const at::Tensor& gradient() const { return gradient_; }
  /// By parameter: whether it had a gradient here.
  std::vector<int32_t>& had_gradient() { return had_gradient_; }
  /// The pieces' gradients are those parts of the own one whose parameters had one on any rank.
  void show_gradients();
  void drop_gradients();

  int64_t own_size() const { return own_size_; }
  /// Of the weights, what this rank keeps between passes.
  int64_t weight_bytes() const { return (stays_whole_ ? size_ : own_size_) * own_.element_size(); }
  int64_t size() const { return size_; }

 private:
  at::Tensor view_of(size_t parameter) const;
  void set_memory(int64_t elements);

  NamedTensors parameters_, pieces_;
  std::vector<int64_t> firsts_;  // of the parameters, in the buffer
  Comm* const ranks_;
  const bool stays_whole_;
  const Sum sum_;
  PairwiseSum pairs_;
  int64_t turns_ = 0;  // reduce_gradients() since the gradients were dropped
  int64_t size_ = 0, own_size_ = 0, own_first_ = 0;
  at::Tensor whole_, own_, gradient_;
  bool is_whole_ = false;  // else whole_ has no memory, or it is being gathered
  std::shared_ptr<Comm::Gathering> gathering_;
  at::Tensor nothing_;  // what released parameters show
  std::vector<int32_t> had_gradient_;
};

/// What is gathered and reduced at once: a layer, or all that belongs to none. What trains and what is frozen are
/// buffers of their own, since the latter has no gradients, and so are slices, which other ranks share, and what is
/// tied, which another stage has too.
class ShardedUnit {
 public:
  /// `ranks` share what is whole, `slice_ranks` the slices (parallel/slice.h).
  ShardedUnit(const NamedTensors& parameters, Comm* ranks, Comm* slice_ranks, Shard shard, Sum sum,
              const std::function<bool(const std::string& name)>& is_tied);

  bool is_whole() const;
  void gather();
  void start_gather();
  void release();
  void reduce_gradients();
  /// Of the weights, what this rank keeps between passes.
  int64_t weight_bytes() const;

  /// For what trains, then, with shared weights, for what is frozen.
  const std::vector<FlatParameters>& flats() const { return flats_; }
  std::span<FlatParameters> trained() { return {flats_.data(), num_trained_}; }
  std::span<const FlatParameters> trained() const { return {flats_.data(), num_trained_}; }

 private:
  std::vector<FlatParameters> flats_;
  size_t num_trained_ = 0;
  int64_t frozen_bytes_ = 0;  // of what is in no buffer
};

}  // namespace unigrpo::parallel
