#include "nn/row_exchange.h"

#include <ATen/ATen.h>

#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "tensor/convert.h"

namespace unigrpo::nn {

RowExchange::RowExchange(RankGroup group, const RowHolders& from, const RowHolders& to) : group_(std::move(group)) {
  const auto own = static_cast<size_t>(group_->rank());
  std::unordered_map<int64_t, std::pair<size_t, int64_t>> holder;  // the first rank, and the row's place there
  for (size_t r = 0; r < from.size(); ++r) {
    for (size_t place = 0; place < from[r].size(); ++place) {
      holder.try_emplace(from[r][place], r, static_cast<int64_t>(place));
    }
  }
  std::vector<int64_t> sent, arrival(to[own].size());
  out_counts_.assign(from.size(), 0);
  in_counts_.assign(from.size(), 0);
  for (size_t r = 0; r < to.size(); ++r) {
    for (const int64_t row : to[r]) {
      const auto found = holder.find(row);
      if (found == holder.end()) throw std::invalid_argument("RowExchange: a row that no rank has");
      const auto [from_rank, place] = found->second;
      if (r == own) ++out_counts_[from_rank];
      if (from_rank != own) continue;
      sent.push_back(place);
      ++in_counts_[r];
    }
  }
  std::vector<int64_t> next(from.size(), 0);  // of what comes from each rank
  for (size_t r = 1; r < next.size(); ++r) next[r] = next[r - 1] + out_counts_[r - 1];
  for (size_t i = 0; i < arrival.size(); ++i) arrival[i] = next[holder.at(to[own][i]).first]++;
  sent_ = tensor::index_tensor(sent);
  order_ = tensor::index_tensor(arrival);
}

at::Tensor RowExchange::operator()(const at::Tensor& own) const {
  const at::Tensor got =
      exchange_rows(own.index_select(0, sent_), out_counts_, in_counts_, group_, "rows between layers");
  return got.index_select(0, order_);
}

}  // namespace unigrpo::nn
