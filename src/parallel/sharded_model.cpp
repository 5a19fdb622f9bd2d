#include "parallel/sharded_model.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/fault.h"
#include "base/memory.h"
#include "kernels/sum_of_squares.h"
#include "parallel/slice.h"
#include "parallel/unit_of.h"

namespace unigrpo::parallel {

Shard shard_level(const ParallelConfig& config, Shard asked) {
  return config.exact_reduction && asked == Shard::none ? Shard::gradients : asked;
}

Sum kind_of_sum(const ParallelConfig& config) { return config.exact_reduction ? Sum::pairwise : Sum::one_by_one; }

bool reduces_each(Shard shard, Reduce reduce, Sum sum) {
  return sum == Sum::pairwise || (shard >= Shard::gradients && reduce == Reduce::each);
}

ShardedModel::ShardedModel(const std::vector<NamedTensors>& units, Ranks ranks, std::vector<Shard> shards,
                           Reduce reduce, Sum sum, std::unique_ptr<OtherStages> others)
    : others_(std::move(others)), ranks_(std::move(ranks)), shards_(std::move(shards)), reduce_(reduce), sum_(sum) {
  const auto is_tied = [this](const std::string& name) { return others_ && others_->is_tied(name); };
  for (size_t unit = 0; unit < units.size(); ++unit) {
    const SliceRanks slices = ranks_.slices.empty() ? SliceRanks{} : ranks_.slices[unit];
    units_.emplace_back(units[unit], ranks_.shard.get(), slices.shard.get(), shards_[unit], sum, is_tied);
    for (const NamedTensor& parameter : units[unit]) {
      if (parameter.piece) slices_.push_back({parameter.tensor, *parameter.piece, slices.tensor.get()});
    }
  }
}

bool ShardedModel::passes_together() const {
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    if (shares_weights(unit) || reduces_each(unit)) return true;
  }
  return false;
}

NamedTensors ShardedModel::pieces() const {
  NamedTensors all;
  for (const ShardedUnit& unit : units_) {
    for (const FlatParameters& flat : unit.flats()) {
      for (size_t i = 0; i < flat.pieces().size(); ++i) {
        if (flat.parameters()[i].tensor.requires_grad()) all.push_back(flat.pieces()[i]);
      }
    }
  }
  if (others_) all.insert(all.end(), others_->pieces().begin(), others_->pieces().end());
  return all;
}

void ShardedModel::begin(bool with_backward) {
  if (in_pass_) throw std::logic_error("a pass within a pass");
  refresh();
  in_pass_ = true;
  gathers_ = shares_weights() && held_ == 0;
  with_backward_ = with_backward;
  is_forward_done_ = false;
  next_ = 1;
  left_ = units_.size();
  if (!gathers_) return;
  units_.front().gather();
  if (units_.size() > 1) units_[1].start_gather();
}

void ShardedModel::begin_backward() {
  if (in_pass_) throw std::logic_error("a pass within a pass");
  in_pass_ = with_backward_ = is_forward_done_ = true;
  gathers_ = shares_weights() && held_ == 0;
  next_ = left_ = units_.size();
  if (gathers_) units_.front().gather();
}

void ShardedModel::enter(size_t unit, bool again) {
  if (!in_pass_) {
    if (held_ > 0 || !shares_weights(unit)) return;
    throw std::logic_error("weights are used that are not gathered");
  }
  if (gathers_) fault::point("unit.gather");
  if (again) {
    finish_forward();
    while (left_ > unit + 1) skip_backward(left_ - 1);
    if (gathers_) gather_with_next(unit, -1);
    return;
  }
  if (!gathers_) return;
  for (; next_ < unit; ++next_) {
    gather_with_next(next_, 1);
    units_[next_].release();
  }
  gather_with_next(unit, 1);
  next_ = unit + 1;
}

/// The layer that runs after it in the pass is gathered while it runs.
void ShardedModel::gather_with_next(size_t unit, int direction) {
  units_[unit].gather();
  const size_t next = unit + static_cast<size_t>(direction);
  if (next > 0 && next < units_.size()) units_[next].start_gather();
}

void ShardedModel::leave(size_t unit, bool again) {
  if (!in_pass_) return;
  if (again) {
    if (reduces_each(unit)) units_[unit].reduce_gradients();
    left_ = unit;
  }
  // The last layer is the first to run backward.
  const bool stays = !again && with_backward_ && unit + 1 == units_.size();
  if (gathers_ && !stays) units_[unit].release();
}

void ShardedModel::finish_forward() {
  if (!gathers_ || std::exchange(is_forward_done_, true)) return;
  for (; next_ < units_.size(); ++next_) {
    gather_with_next(next_, 1);
    if (next_ + 1 < units_.size()) units_[next_].release();
  }
  // One that an Interrupted left behind is released as well: the backward pass gathers it anew on all ranks.
  for (size_t unit = 1; unit + (with_backward_ ? 1 : 0) < units_.size(); ++unit) units_[unit].release();
}

void ShardedModel::skip_backward(size_t unit) {
  if (gathers_) gather_with_next(unit, -1);
  if (reduces_each(unit)) units_[unit].reduce_gradients();
  if (gathers_) units_[unit].release();
  left_ = unit;
}

void ShardedModel::end() {
  if (!in_pass_) return;
  finish_forward();
  if (with_backward_) {
    while (left_ > 1) skip_backward(left_ - 1);
    if (reduces_each(0)) units_.front().reduce_gradients();
  }
  if (gathers_) {
    for (ShardedUnit& unit : units_) unit.release();
  }
  in_pass_ = false;
}

void ShardedModel::hold(Form form) {
  refresh();
  if (held_++ == 0) {
    for (ShardedUnit& unit : units_) unit.gather();
  }
  if (form == Form::whole && held_whole_++ == 0) make_whole();
}

void ShardedModel::let_go(Form form) {
  if (form == Form::whole && --held_whole_ == 0) make_slices();
  if (--held_ > 0) return;
  for (ShardedUnit& unit : units_) unit.release();
  return_unused_memory();
}

void ShardedModel::make_whole() {
  const at::NoGradGuard no_grad;
  for (Slice& slice : slices_) {
    slice.own = slice.parameter.detach();
    slice.parameter.set_data(joined(slice.own, slice.piece, *slice.ranks));
  }
  if (others_) others_->gather();
}

void ShardedModel::make_slices() {
  const at::NoGradGuard no_grad;
  if (others_) others_->release();
  for (Slice& slice : slices_) slice.parameter.set_data(std::exchange(slice.own, {}));
}

void ShardedModel::wrote() {
  ++version_;
  stale_ = true;
  return_unused_memory();
}

/// Where ranks share weights to save memory, what generation or an update freed goes back after it: what is kept
/// between live blocks costs more than the time to get it again, a twentieth of a step.
void ShardedModel::return_unused_memory() const {
  if (shares_weights() || !slices_.empty()) return_free_memory();
}

void ShardedModel::refresh() {
  if (!std::exchange(stale_, false)) return;
  for (ShardedUnit& unit : units_) {
    for (FlatParameters& flat : unit.trained()) flat.refresh();
  }
  if (held_whole_ == 0) return;
  make_slices();
  make_whole();
}

void ShardedModel::finish_gradients() {
  std::vector<int32_t> had;
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    for (FlatParameters& flat : units_[unit].trained()) {
      if (!reduces_each(unit)) flat.reduce_gradients();
      flat.finish_gradients();
      if (ranks_.replica && flat.gradient().defined()) ranks_.replica->all_reduce(flat.gradient(), "gradients");
      if (others_ && others_->is_tied(flat.parameters().front().name) && flat.gradient().defined()) {
        others_->sum_tied(flat.gradient());
      }
      had.insert(had.end(), flat.had_gradient().begin(), flat.had_gradient().end());
    }
  }
  at::Tensor flags = at::tensor(had, at::kInt);
  for (const auto& ranks : {ranks_.shard, ranks_.replica}) {
    if (ranks && flags.numel() > 0) ranks->all_reduce(flags, "gradients");
  }
  const int32_t* flag = flags.const_data_ptr<int32_t>();
  for (ShardedUnit& unit : units_) {
    for (FlatParameters& flat : unit.trained()) {
      for (int32_t& each : flat.had_gradient()) each = *flag++;
    }
  }
  show_gradients();
}

void ShardedModel::show_gradients() {
  std::map<std::string, bool> had;
  const auto for_each = [&](const auto& visit) {
    for (ShardedUnit& unit : units_) {
      for (FlatParameters& flat : unit.trained()) {
        for (size_t i = 0; i < flat.parameters().size(); ++i) visit(flat.parameters()[i].name, flat.had_gradient()[i]);
      }
    }
  };
  if (others_) {
    for_each([&](const std::string& name, int32_t& each) { had[name] = each > 0; });
    had = others_->show_gradients(had);
    for_each([&](const std::string& name, int32_t& each) { each = had.at(name) ? 1 : 0; });
  }
  for (ShardedUnit& unit : units_) {
    for (FlatParameters& flat : unit.trained()) flat.show_gradients();
  }
}

void ShardedModel::drop_gradients() {
  for (ShardedUnit& unit : units_) {
    for (FlatParameters& flat : unit.trained()) flat.drop_gradients();
  }
  if (others_) others_->drop_gradients();
}

double ShardedModel::square_of_gradients() const {
  std::vector<at::Tensor> cells;
  std::vector<int64_t> counts;  // of the own cells of each unit
  for (const ShardedUnit& unit : units_) {
    for (const FlatParameters& flat : unit.trained()) {
      if (!flat.gradient().defined() || (others_ && !others_->counts(flat.parameters().front().name))) continue;
      const std::vector<at::Tensor> own = flat.gradient().split(kCell);
      cells.insert(cells.end(), own.begin(), own.end());
      counts.push_back(static_cast<int64_t>(own.size()));
    }
  }
  at::Tensor all = kernels::sum_of_squares(cells);
  if (!ranks_.slices.empty()) {  // which need not be equally large
    all = all.sum(0, /*keepdim=*/true);
    counts = {1};
  }
  const int64_t num_own = all.numel();
  if (num_own == 0) return others_ ? others_->sum(0) : 0;
  if (ranks_.shard) {
    const at::Tensor own = all;
    all = at::empty({num_ranks() * num_own}, at::kDouble);
    ranks_.shard->all_gather(all, own, "gradient norm");
  }
  const double* square = all.const_data_ptr<double>();
  double sum = 0;
  int64_t first = 0;
  for (const int64_t count : counts) {
    for (int64_t r = 0; r < num_ranks(); ++r) {
      for (int64_t c = 0; c < count; ++c) sum += square[r * num_own + first + c];
    }
    first += count;
  }
  return others_ ? others_->sum(sum) : sum;
}

int64_t ShardedModel::weight_bytes() const {
  int64_t bytes = 0;
  for (const ShardedUnit& unit : units_) bytes += unit.weight_bytes();
  return bytes;
}

int64_t ShardedModel::gradient_bytes() const {
  int64_t elements = 0;
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    for (const FlatParameters& flat : std::as_const(units_[unit]).trained()) {
      elements += reduces_each(unit) ? flat.own_size() : flat.size();
    }
  }
  return elements * static_cast<int64_t>(sizeof(float));
}

void UnitOf::enter(bool again) const {
  if (model) model->enter(unit, again);
}

void UnitOf::leave(bool again) const {
  if (model) model->leave(unit, again);
}

}  // namespace unigrpo::parallel
