#include "train/reward_ranks.h"

#include <ATen/ATen.h>

#include <cstring>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/fault.h"
#include "data/sample_bytes.h"

namespace unigrpo::train {
namespace {

constexpr const char* kPurpose = "samples to judge";

/// What a message says before its samples: how many bytes they take, -1 where nothing more comes; prompt and place.
struct Header {
  int64_t bytes = -1, prompt = 0, first = 0;
};

at::Tensor tensor_of(const Header& header) {
  return at::tensor({header.bytes, header.prompt, header.first}, at::kLong);
}

}  // namespace

RewardRanks::RewardRanks(const Runtime& runtime, int64_t judges) : comm_(*runtime.comm), judges_(judges) {}

std::vector<rollout::SampleRange> RewardRanks::groups(int64_t num_prompts, int64_t group_size) const {
  std::vector<rollout::SampleRange> groups(static_cast<size_t>(num_prompts));
  for (int64_t p = comm_.rank() - num_drawing(); p >= 0 && p < num_prompts; p += judges_) {
    groups[static_cast<size_t>(p)] = {.first = 0, .count = group_size};
  }
  return groups;
}

void RewardRanks::post(at::Tensor tensor, int64_t to) { going_.push_back(comm_.start_send(tensor, to, kPurpose)); }

void RewardRanks::send(int64_t p, int64_t first, const std::vector<data::Sample>& samples) {
  const std::string bytes = to_bytes(samples);
  const auto size = static_cast<int64_t>(bytes.size());
  at::Tensor payload = at::empty({size}, at::kByte);
  std::memcpy(payload.data_ptr(), bytes.data(), bytes.size());
  const int64_t judge = num_drawing() + p % judges_;
  post(tensor_of({.bytes = size, .prompt = p, .first = first}), judge);
  post(payload, judge);
}

void RewardRanks::end() {
  for (int64_t judge = num_drawing(); judge < comm_.size(); ++judge) post(tensor_of({}), judge);
  for (; !going_.empty(); going_.pop_front()) comm_.finish(*going_.front());
}

at::Tensor RewardRanks::fetch(int64_t from, const at::Tensor& into) {
  comm_.finish(*comm_.start_receive(into, from, kPurpose));
  return into;
}

void RewardRanks::receive(
    const std::function<void(int64_t p, int64_t first, std::vector<data::Sample> samples)>& take) {
  // In turns: what comes of one rank is in order, and ranks draw at one pace.
  std::deque<int64_t> drawing;
  for (int64_t rank = 0; rank < num_drawing(); ++rank) drawing.push_back(rank);
  while (!drawing.empty()) {
    const int64_t rank = drawing.front();
    drawing.pop_front();
    const at::Tensor header = fetch(rank, at::empty({3}, at::kLong));
    const auto* said = header.const_data_ptr<int64_t>();
    if (said[0] < 0) continue;
    fault::point("reward.received");
    drawing.push_back(rank);
    const at::Tensor payload = fetch(rank, at::empty({said[0]}, at::kByte));
    std::vector<data::Sample> samples;
    from_bytes(std::string_view(static_cast<const char*>(payload.const_data_ptr()), payload.nbytes()), samples);
    take(said[1], said[2], std::move(samples));
  }
}

}  // namespace unigrpo::train
