#include "parallel/sharded_unit.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "parallel/gather_memory.h"

namespace unigrpo::parallel {
namespace {

constexpr int64_t kAligned = 32;  // elements: a parameter begins at 64 bytes, as one with memory of its own

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/// The own share of what ranks, a power of two of them, hold. all: [ranks x n]. Returns [n].
at::Tensor sum_in_pairs(Comm& ranks, const at::Tensor& all) {
  const int64_t num_ranks = ranks.size();
  const at::Tensor shares = all.view({num_ranks, -1});
  at::Tensor own = at::empty_like(shares);
  const std::vector<int64_t> one_each(static_cast<size_t>(num_ranks), 1);
  ranks.all_to_all(own, shares, one_each, one_each, "gradients");
  PairwiseSum sum;
  for (int64_t r = 0; r < num_ranks; ++r) sum.add(r, own[r]);
  return sum.take().clone();  // without the shares' memory
}

}  // namespace

FlatParameters::FlatParameters(NamedTensors parameters, Comm* ranks, bool stays_whole, Sum sum)
    : parameters_(std::move(parameters)), ranks_(ranks), stays_whole_(stays_whole), sum_(sum) {
  const at::NoGradGuard no_grad;
  const int64_t num_ranks = ranks ? ranks->size() : 1, rank = ranks ? ranks->rank() : 0;
  for (const NamedTensor& parameter : parameters_) {
    firsts_.push_back(size_);
    size_ = round_up(size_ + parameter.tensor.numel(), kAligned);
  }
  size_ = round_up(size_, num_ranks * kCell);
  own_size_ = size_ / num_ranks;
  own_first_ = rank * own_size_;
  const auto options = parameters_.front().tensor.options().requires_grad(false);
  nothing_ = at::full({}, std::numeric_limits<double>::quiet_NaN(), options);
  whole_ = at::empty({size_}, options);
  if (!stays_whole_ && ranks_) set_memory(size_);
  whole_.zero_();
  is_whole_ = true;
  for (size_t i = 0; i < parameters_.size(); ++i) view_of(i).copy_(parameters_[i].tensor);
  own_ = whole_.narrow(0, own_first_, own_size_);
  if (!stays_whole_ && ranks_) own_ = own_.clone();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const NamedTensor& parameter = parameters_[i];
    parameter.tensor.set_data(view_of(i));
    const int64_t last = firsts_[i] + parameter.tensor.numel();
    const int64_t begin = std::clamp(firsts_[i], own_first_, own_first_ + own_size_);
    const int64_t end = std::clamp(last, begin, own_first_ + own_size_);
    PieceOf piece = parameter.piece.value_or(PieceOf{.shape = parameter.tensor.sizes().vec()});
    piece.first += std::clamp<int64_t>(begin - firsts_[i], 0, parameter.tensor.numel());
    pieces_.push_back({parameter.name, own_.narrow(0, begin - own_first_, end - begin).detach(), piece});
    // Or a sum of many micro-batches' gradients loses what bf16 rounds away.
    if (parameter.tensor.requires_grad()) parameter.tensor.set_grad_dtype(at::kFloat);
  }
  had_gradient_.assign(parameters_.size(), 0);
  release();
}

at::Tensor FlatParameters::view_of(size_t parameter) const {
  const at::Tensor& tensor = parameters_[parameter].tensor;
  return whole_.narrow(0, firsts_[parameter], tensor.numel()).view(tensor.sizes());
}

void FlatParameters::start_gather() {
  if (is_whole_ || gathering_ || !ranks_) return;
  set_memory(size_);
  gathering_ = ranks_->start_all_gather(whole_, own_, "weights");
}

void FlatParameters::gather() {
  if (is_whole_) return;
  const at::NoGradGuard no_grad;
  start_gather();
  if (ranks_) ranks_->finish(*std::exchange(gathering_, nullptr));
  is_whole_ = true;
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].tensor.set_data(view_of(i));
}

void FlatParameters::release() {
  if (stays_whole_ || !is_whole_) return;
  const at::NoGradGuard no_grad;
  for (const NamedTensor& parameter : parameters_) {
    parameter.tensor.set_data(nothing_.expand(parameter.tensor.sizes()));
  }
  is_whole_ = false;
  if (ranks_) set_memory(0);
}

/// The buffer's storage stays the same, so that what a graph of autograd kept of it, transposed or cut, is filled again
/// with it.
void FlatParameters::set_memory(int64_t elements) {
  const size_t bytes = static_cast<size_t>(elements * whole_.element_size());
  const at::Storage& storage = whole_.storage();
  const bool on_cpu = storage.device().is_cpu() && bytes > 0;
  storage.set_data_ptr_noswap(on_cpu ? gather_memory(bytes) : storage.allocator()->allocate(bytes));
  storage.unsafeGetStorageImpl()->set_nbytes(bytes);
}

void FlatParameters::refresh() {
  if (!ranks_ || !is_whole_) return;
  ranks_->all_gather(whole_, own_, "weights");
}

void FlatParameters::reduce_gradients() {
  const at::NoGradGuard no_grad;
  at::Tensor all = at::empty({size_}, own_.options().dtype(at::kFloat));
  int64_t written = 0;
  const auto zero_up_to = [&](int64_t end) {
    if (end > written) all.narrow(0, written, end - written).zero_();
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& grad = parameters_[i].tensor.mutable_grad();
    if (!grad.defined()) continue;
    zero_up_to(firsts_[i]);
    all.narrow(0, firsts_[i], grad.numel()).view(grad.sizes()).copy_(grad);
    written = firsts_[i] + grad.numel();
    grad.reset();
    had_gradient_[i] = 1;
  }
  zero_up_to(size_);
  const int64_t turn = turns_++;
  if (sum_ == Sum::pairwise) {
    pairs_.add(turn, ranks_ ? sum_in_pairs(*ranks_, all) : all);
    return;
  }
  at::Tensor own = all;
  if (ranks_) {
    own = at::empty({own_size_}, all.options());
    ranks_->reduce_scatter(own, all, "gradients");
  }
  if (gradient_.defined()) {
    gradient_.add_(own);
  } else {
    gradient_ = own;
  }
}

void FlatParameters::finish_gradients() {
  if (sum_ == Sum::pairwise) gradient_ = pairs_.take();
}

void FlatParameters::show_gradients() {
  for (size_t i = 0; i < pieces_.size(); ++i) {
    at::Tensor& grad = pieces_[i].tensor.mutable_grad();
    grad.reset();
    if (had_gradient_[i] == 0 || !gradient_.defined()) continue;
    grad = gradient_.narrow(0, pieces_[i].tensor.storage_offset() - own_.storage_offset(), pieces_[i].tensor.numel());
  }
}

void FlatParameters::drop_gradients() {
  gradient_.reset();
  pairs_ = {};
  turns_ = 0;
  for (NamedTensor& piece : pieces_) piece.tensor.mutable_grad().reset();
  for (NamedTensor& parameter : parameters_) parameter.tensor.mutable_grad().reset();
  had_gradient_.assign(parameters_.size(), 0);
}

ShardedUnit::ShardedUnit(const NamedTensors& parameters, Comm* ranks, Comm* slice_ranks, Shard shard, Sum sum,
                         const std::function<bool(const std::string&)>& is_tied) {
  const bool shares_weights = shard == Shard::weights;
  const auto add = [&](bool trains, bool sliced, bool tied) {
    NamedTensors members;
    for (const NamedTensor& parameter : parameters) {
      if (parameter.tensor.requires_grad() == trains && parameter.piece.has_value() == sliced &&
          is_tied(parameter.name) == tied) {
        members.push_back(parameter);
      }
    }
    if (members.empty()) return;
    if (!trains && !shares_weights) {
      for (const NamedTensor& member : members) frozen_bytes_ += static_cast<int64_t>(member.tensor.nbytes());
      return;
    }
    flats_.emplace_back(std::move(members), sliced ? slice_ranks : ranks, !shares_weights, sum);
  };
  for (const bool trains : {true, false}) {
    for (const bool sliced : {false, true}) {
      for (const bool tied : {false, true}) add(trains, sliced, tied);
    }
    if (trains) num_trained_ = flats_.size();
  }
}

bool ShardedUnit::is_whole() const {
  return std::ranges::all_of(flats_, [](const FlatParameters& flat) { return flat.is_whole(); });
}

int64_t ShardedUnit::weight_bytes() const {
  int64_t bytes = frozen_bytes_;
  for (const FlatParameters& flat : flats_) bytes += flat.weight_bytes();
  return bytes;
}

void ShardedUnit::gather() {
  for (FlatParameters& flat : flats_) flat.gather();
}

void ShardedUnit::start_gather() {
  for (FlatParameters& flat : flats_) flat.start_gather();
}

void ShardedUnit::release() {
  for (FlatParameters& flat : flats_) flat.release();
}

void ShardedUnit::reduce_gradients() {
  for (FlatParameters& flat : trained()) flat.reduce_gradients();
}

}  // namespace unigrpo::parallel
