#include "data/prompt_sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/rng.h"

namespace unigrpo::data {
namespace {

constexpr int64_t kMaxRepeats = 1024;  // mean copies of a prompt in an epoch, at most

bool all_weights_are_one(const std::vector<Prompt>& prompts) {
  return std::all_of(prompts.begin(), prompts.end(), [](const Prompt& prompt) { return prompt.weight == 1.0; });
}

}  // namespace

PromptSampler::PromptSampler(std::vector<Prompt> prompts, uint64_t seed, int64_t prompts_per_step)
    : prompts_(std::move(prompts)), seed_(seed), prompts_per_step_(prompts_per_step) {
  if (prompts_.empty()) throw BadInput("data.prompts: no prompts to draw from");
  if (prompts_per_step_ < 1) {
    throw BadInput("grpo.prompts_per_step must be at least 1, got {}", prompts_per_step_);
  }
  const auto num_prompts = static_cast<int64_t>(prompts_.size());
  if (all_weights_are_one(prompts_)) {
    epoch_length_ = num_prompts;
    return;
  }
  // The epoch is as long as the weights sum to, so that its length, and with it the place of a
  // step, is the same in every epoch. Dividing by the largest first keeps the sum finite.
  double largest = 0;
  for (const Prompt& prompt : prompts_) largest = std::max(largest, prompt.weight);
  double sum = 0;
  for (const Prompt& prompt : prompts_) {
    sum += prompt.weight / largest;
    shares_.push_back(sum);
  }
  const double most = static_cast<double>(num_prompts) * static_cast<double>(kMaxRepeats);
  epoch_length_ = static_cast<int64_t>(std::llround(std::clamp(sum * largest, 1.0, most)));
  for (double& share : shares_) share *= static_cast<double>(epoch_length_) / sum;
  shares_.back() = static_cast<double>(epoch_length_);
}

// Systematic sampling: with one offset u in [0, 1), prompt i gets floor(c_i + u) - floor(c_(i-1) +
// u) copies, where c is the running sum of the weights. Each count is its weight rounded down or
// up, with the weight as mean, and the counts sum to the epoch's length.
std::vector<int64_t> PromptSampler::epoch_order(int64_t epoch) const {
  RandomStream stream({.seed = seed_, .step = static_cast<uint64_t>(epoch), .purpose = Purpose::prompt_order});
  std::vector<int64_t> order;
  order.reserve(static_cast<size_t>(epoch_length_));
  if (shares_.empty()) {
    order.resize(prompts_.size());
    std::iota(order.begin(), order.end(), 0);
  } else {
    const double offset = stream.uniform();
    int64_t done = 0;
    for (size_t index = 0; index < shares_.size(); ++index) {
      const bool is_last = index + 1 == shares_.size();
      const int64_t until = is_last ? epoch_length_ : static_cast<int64_t>(std::floor(shares_[index] + offset));
      for (; done < std::min(until, epoch_length_); ++done) {
        order.push_back(static_cast<int64_t>(index));
      }
    }
  }
  for (size_t last = order.size() - 1; last > 0; --last) {
    std::swap(order[last], order[stream.below(last + 1)]);
  }
  return order;
}

PromptBatch PromptSampler::batch(int64_t step) const {
  return {.step = step, .prompts = range(step * prompts_per_step_, prompts_per_step_)};
}

std::vector<Prompt> PromptSampler::range(int64_t first, int64_t count) const {
  std::vector<Prompt> prompts;
  prompts.reserve(static_cast<size_t>(count));
  int64_t position = first;
  while (static_cast<int64_t>(prompts.size()) < count) {
    const std::vector<int64_t> order = epoch_order(position / epoch_length_);
    for (int64_t i = position % epoch_length_; i < epoch_length_ && static_cast<int64_t>(prompts.size()) < count; ++i) {
      prompts.push_back(prompts_[static_cast<size_t>(order[static_cast<size_t>(i)])]);
      ++position;
    }
  }
  return prompts;
}

}  // namespace unigrpo::data
