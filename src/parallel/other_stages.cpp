#include "parallel/other_stages.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace unigrpo::parallel {
namespace {

constexpr int64_t kAligned = 32;  // elements: a parameter begins at 64 bytes, as one with memory of its own

int64_t aligned(int64_t elements) { return (elements + kAligned - 1) / kAligned * kAligned; }

}  // namespace

OtherStages::OtherStages(std::vector<StagePart> parts, std::shared_ptr<Comm> ranks)
    : parts_(std::move(parts)), ranks_(std::move(ranks)) {
  std::erase_if(parts_, [](const StagePart& part) { return part.parameters.empty(); });
  for (const StagePart& part : parts_) {
    for (const NamedTensor& parameter : part.parameters) {
      if (part.stages.size() > 1) twins_.insert(parameter.name);
      const auto options = parameter.tensor.options().requires_grad(false);
      if (!nothing_.defined()) nothing_ = at::full({}, std::numeric_limits<double>::quiet_NaN(), options);
      if (is_own(part) || !parameter.tensor.requires_grad()) continue;
      pieces_.push_back({parameter.name, at::empty({0}, options), PieceOf{.shape = parameter.tensor.sizes().vec()}});
    }
  }
  release();
}

bool OtherStages::is_own(const StagePart& part) const { return std::ranges::count(part.stages, stage()) > 0; }

void OtherStages::gather() {
  const at::NoGradGuard no_grad;
  for (const StagePart& part : parts_) {
    const int64_t root = part.stages.front();
    int64_t size = 0;
    for (const NamedTensor& parameter : part.parameters) size += aligned(parameter.tensor.numel());
    at::Tensor all = at::empty({size}, nothing_.options());
    int64_t first = 0;
    const auto next = [&](const NamedTensor& parameter) {
      const at::Tensor place = all.narrow(0, first, parameter.tensor.numel()).view(parameter.tensor.sizes());
      first += aligned(parameter.tensor.numel());
      return place;
    };
    if (stage() == root) {
      all.zero_();
      for (const NamedTensor& parameter : part.parameters) next(parameter).copy_(parameter.tensor);
    }
    ranks_->broadcast(all, root, "weights of stages");
    if (is_own(part)) continue;
    for (const NamedTensor& parameter : part.parameters) parameter.tensor.set_data(next(parameter));
  }
}

void OtherStages::release() {
  const at::NoGradGuard no_grad;
  for (const StagePart& part : parts_) {
    if (is_own(part)) continue;
    for (const NamedTensor& parameter : part.parameters) {
      parameter.tensor.set_data(nothing_.expand(parameter.tensor.sizes()));
    }
  }
}

void OtherStages::sum_tied(at::Tensor& gradient) {
  const int64_t last = ranks_->size() - 1, other = stage() == 0 ? last : 0;
  at::Tensor theirs = at::empty_like(gradient);
  const auto going = ranks_->start_send(gradient, other, "tied gradients");
  const auto coming = ranks_->start_receive(theirs, other, "tied gradients");
  ranks_->finish(*going);
  ranks_->finish(*coming);
  gradient.add_(theirs);  // of two summands the order does not matter
}

std::map<std::string, bool> OtherStages::show_gradients(const std::map<std::string, bool>& had) {
  std::vector<int32_t> flags;
  for (const StagePart& part : parts_) {
    for (const NamedTensor& parameter : part.parameters) {
      const auto found = had.find(parameter.name);
      flags.push_back(found != had.end() && found->second ? 1 : 0);
    }
  }
  at::Tensor anywhere = at::tensor(flags, at::kInt);
  ranks_->all_reduce(anywhere, "gradients");
  const int32_t* flag = anywhere.const_data_ptr<int32_t>();
  std::map<std::string, bool> all;
  for (const StagePart& part : parts_) {
    for (const NamedTensor& parameter : part.parameters) all[parameter.name] = *flag++ > 0;
  }
  for (const NamedTensor& piece : pieces_) {
    at::Tensor& grad = piece.tensor.mutable_grad();
    grad.reset();
    if (all.at(piece.name)) grad = at::empty({0}, piece.tensor.options().dtype(at::kFloat));
  }
  return all;
}

void OtherStages::drop_gradients() {
  for (const NamedTensor& piece : pieces_) piece.tensor.mutable_grad().reset();
}

double OtherStages::sum(double own) const {
  at::Tensor all = at::empty({ranks_->size()}, at::kDouble);
  ranks_->all_gather(all, at::full({1}, own, at::kDouble), "gradient norm");
  double sum = 0;
  for (int64_t stage = 0; stage < ranks_->size(); ++stage) sum += all.const_data_ptr<double>()[stage];
  return sum;
}

}  // namespace unigrpo::parallel
