#include "train/draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/failure.h"
#include "base/hash.h"
#include "base/signals.h"
#include "data/prompt_file.h"
#include "data/sample_bytes.h"
#include "policy/context_digest.h"
#include "reward/score_bytes.h"
#include "rollout/deal.h"
#include "rollout/outline.h"
#include "runtime/ranks.h"
#include "train/reward_ranks.h"

namespace unigrpo::train {
namespace {

using rollout::SampleRange;
using rollout::Trajectory;

/// Where a sample stands in a step: its prompt, and its place in the group, from 0.
struct Place {
  int64_t prompt = 0, sample = 0;
  auto operator<=>(const Place&) const = default;
};

template <typename Bytes, SameAs<Place> T>
void fields(Bytes& bytes, T& place) {
  bytes(place.prompt, place.sample);
}

/// What a rank tells the others when it is done.
struct Told {
  int signal = 0;  // that asked it to stop: what it holds may have been cut short
  double rollout_seconds = 0;
  std::vector<std::string> outlines = {};
  uint64_t drawn = 0;              // a digest of what it has sampled, where others sample the same
  std::vector<Place> judged = {};  // rows of the table
  reward::ScoreTable table = {};
  std::string missing = {};  // why reward.on_error = stop ends the run
};

template <typename Bytes, SameAs<Told> T>
void fields(Bytes& bytes, T& told) {
  bytes(told.signal, told.rollout_seconds, told.outlines, told.drawn, told.judged, told.table, told.missing);
}

/// Has the samples of a rank judged: as they come, or all at the end.
class Judging {
 public:
  Judging(reward::Rewarder& rewarder, std::span<const SampleRange> ranges, bool at_once)
      : rewarder_(rewarder), at_once_(at_once) {
    for (size_t p = 0; p < ranges.size(); ++p) {
      first_row_.push_back(places_.size());
      for (int64_t g = 0; g < ranges[p].count; ++g) {
        places_.push_back({static_cast<int64_t>(p), ranges[p].first + g});
      }
    }
    waiting_.resize(at_once ? 0 : places_.size());
  }

  /// first: the place of the first of them in their group.
  void take(int64_t p, int64_t first, std::vector<data::Sample> group) {
    const size_t row = first_row_[p] + static_cast<size_t>(first - places_[first_row_[p]].sample);
    if (at_once_) {
      rewarder_.submit(row, std::move(group));
    } else {
      std::ranges::move(group, waiting_.begin() + static_cast<std::ptrdiff_t>(row));
    }
  }

  const std::vector<Place>& places() const { return places_; }
  std::vector<data::Sample>& waiting() { return waiting_; }

  /// Scores, row by row of places().
  reward::ScoreTable collect() {
    if (!waiting_.empty()) rewarder_.submit(0, std::move(waiting_));
    return rewarder_.collect();
  }

  /// Groups that were cut, put together again on the rank of their first sample. `groups`: what each rank held.
  void unite(const std::vector<std::map<Place, data::Sample>>& groups) {
    std::map<Place, data::Sample> whole;
    for (const Place& place : places_) {
      if (place.sample != 0) continue;
      const auto images = waiting_[first_row_[place.prompt]].images;  // the prompt's own, which did not travel
      for (const auto& held : groups) {
        for (const auto& [other, sample] : held) {
          if (other.prompt == place.prompt) (whole[other] = sample).images = images;
        }
      }
    }
    places_.clear();
    waiting_.clear();
    for (auto& [place, sample] : whole) {
      places_.push_back(place);
      waiting_.push_back(std::move(sample));
    }
  }

 private:
  reward::Rewarder& rewarder_;
  const bool at_once_;
  std::vector<size_t> first_row_;      // [P]
  std::vector<Place> places_;          // [rows]
  std::vector<data::Sample> waiting_;  // [rows]
};

uint64_t digest_of(std::span<const Trajectory> drawn, std::span<const std::string> outlines) {
  uint64_t digest = kFnvStart;
  for (const std::string& outline : outlines) digest = fnv1a64(fnv1a64(outline), digest);
  for (const Trajectory& trajectory : drawn) {
    for (const rollout::FlowSegment& flow : trajectory.flows) {
      for (const rollout::FlowStream& stream : flow.streams) {
        digest = policy::hash_tensor(stream.final_latent, policy::hash_tensor(stream.velocities, digest));
      }
    }
  }
  return digest;
}

/// Ranks that share sequences train on rows of what should be the same samples.
void require_same_draws(const Runtime& runtime, std::span<const Told> all) {
  for (size_t rank = 1; rank < all.size(); ++rank) {
    const auto place = static_cast<int64_t>(rank);
    if (share_of(runtime, place) != share_of(runtime, place - 1) || all[rank].drawn == all[rank - 1].drawn) continue;
    throw RuntimeFailure(
        "rank {} and rank {} share sequences (parallel.sp) and have drawn different samples: unlike processors or "
        "libraries; expected equal ones within a group",
        rank - 1, rank);
  }
}

/// What the others draw, with the prompts' own images.
void take_from_others(RewardRanks& ranks, std::span<const data::Prompt> prompts, Judging& judging) {
  std::map<int64_t, std::vector<std::shared_ptr<const Image>>> images;  // by prompt
  ranks.receive([&](int64_t p, int64_t first, std::vector<data::Sample> group) {
    const auto [found, is_new] = images.try_emplace(p);
    if (is_new) found->second = data::shared_images(data::read_prompt_images(prompts[static_cast<size_t>(p)]));
    for (data::Sample& sample : group) sample.images = found->second;
    judging.take(p, first, std::move(group));
  });
}

/// Takes the scores; returns what a score that is missing is to end the run with.
std::exception_ptr collect(Judging& judging, Told& told) {
  std::exception_ptr missing;
  try {
    told.table = judging.collect();
  } catch (const reward::MissingScores& error) {
    missing = std::current_exception();
    told.missing = error.what();
    told.table = error.table;
  } catch (const Interrupted&) {  // by a stop
  }
  told.judged = judging.places();
  return missing;
}

/// All that ranks have told, in the order of places.
Batch joined(const Runtime& runtime, const std::vector<Told>& all, std::vector<Trajectory> own, int64_t first_sample) {
  const int64_t own_place = own_share(runtime);
  std::map<Place, Trajectory> trajectories;
  std::map<Place, std::vector<reward::Score>> scores;
  const auto add = [&](Trajectory trajectory) {
    const Place place{trajectory.prompt_index, trajectory.sample_index - first_sample};
    trajectories[place] = std::move(trajectory);
  };
  for (Trajectory& trajectory : own) add(std::move(trajectory));
  Batch batch;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const Told& told = all[rank];
    batch.rollout_seconds = std::max(batch.rollout_seconds, told.rollout_seconds);
    if (share_of(runtime, static_cast<int64_t>(rank)) != own_place) {
      for (const std::string& outline : told.outlines) add(rollout::from_outline(outline));
    }
    for (size_t i = 0; i < told.judged.size(); ++i) scores[told.judged[i]] = told.table.scores[i];
    if (!told.missing.empty() && !batch.missing) {
      batch.missing = std::make_exception_ptr(PeerLost("rank {}: {}", rank, told.missing));
    }
  }
  batch.scores.terms = all.front().table.terms;
  batch.scores.weights = all.front().table.weights;
  batch.scores.modality = all.front().table.modality;
  batch.scores.streams = all.front().table.streams;
  for (auto& [place, trajectory] : trajectories) {
    batch.trajectories.push_back(std::move(trajectory));
    batch.scores.scores.push_back(std::move(scores[place]));
  }
  return batch;
}

}  // namespace

std::optional<Batch> draw(rollout::RolloutEngine& engine, reward::Rewarder& rewarder, const Runtime& runtime,
                          DrawRequest request) {
  const auto own_groups = static_cast<int64_t>(request.rollout.prompts.size());
  std::optional<RewardRanks> elsewhere;
  if (runtime.comm && request.reward_ranks > 0) elsewhere.emplace(runtime, request.reward_ranks);
  const rollout::Deal deal{.num_prompts = std::max(request.num_groups, own_groups),
                           .group_size = request.rollout.group_size,
                           .rank = own_share(runtime),
                           .num_ranks = elsewhere ? elsewhere->num_drawing() : num_shares(runtime),
                           .keeps_groups = request.keeps_groups};
  const bool come_cut = rollout::cuts_groups(deal) && rewarder.wants_groups(), united = come_cut && !elsewhere;
  request.rollout.ranges.assign(static_cast<size_t>(own_groups), SampleRange{});
  if (!elsewhere || !elsewhere->is_judge()) {
    const std::vector<SampleRange> of_step = rollout::ranges_of(deal);
    std::copy_n(of_step.begin() + request.first_group, own_groups, request.rollout.ranges.begin());
  }
  const bool judges = tells_share(runtime);
  const auto judged = elsewhere ? elsewhere->groups(own_groups, deal.group_size)
                      : judges  ? request.rollout.ranges
                                : std::vector<SampleRange>();
  Judging judging(rewarder, judged, request.judge_at_once && !come_cut);
  request.rollout.on_group = [&](int64_t p, std::vector<data::Sample> group) {
    const int64_t first = request.rollout.ranges[static_cast<size_t>(p)].first;
    if (elsewhere) {
      elsewhere->send(p, first, group);
    } else if (judges) {
      judging.take(p, first, std::move(group));
    }
  };
  Stopwatch watch;
  std::vector<Trajectory> own;
  try {
    own = engine.rollout(request.rollout);
  } catch (const Interrupted&) {  // in the middle of a forward: the others learn of it below
  }
  Told told{.rollout_seconds = watch.seconds()};
  if (elsewhere && elsewhere->is_judge()) {
    take_from_others(*elsewhere, request.rollout.prompts, judging);
  } else if (elsewhere) {
    elsewhere->end();
  }
  if (request.on_sampled) request.on_sampled();
  if (united) {
    std::map<Place, data::Sample> held;
    for (size_t i = 0; judges && i < own.size(); ++i) held[judging.places()[i]] = judging.waiting()[i];
    const auto groups = gather(runtime, held, "groups");
    if (stop_asked(runtime)) return std::nullopt;
    judging.unite(groups);
  }
  const std::exception_ptr missing = runtime.stop.requested() ? nullptr : collect(judging, told);
  told.signal = runtime.stop.number();
  if (!runtime.comm) {
    if (told.signal != 0) return std::nullopt;
    return Batch{std::move(own), std::move(told.table), told.rollout_seconds, missing};
  }
  for (const Trajectory& trajectory : own) told.outlines.push_back(rollout::to_outline(trajectory));
  if (shares_sequences(runtime)) told.drawn = digest_of(own, told.outlines);
  if (!judges) told.outlines.clear();
  const std::vector<Told> all = gather(runtime, told, "rewards");
  for (const Told& other : all) {
    if (other.signal == 0) continue;
    runtime.stop.request(other.signal);
    return std::nullopt;
  }
  require_same_draws(runtime, all);
  Batch batch = joined(runtime, all, std::move(own), request.rollout.first_sample);
  if (missing) batch.missing = missing;
  return batch;
}

std::vector<data::Sample> whole_samples(const Runtime& runtime, std::span<const Trajectory> trajectories,
                                        std::span<const size_t> rows) {
  std::map<size_t, data::Sample> held;
  for (const size_t row : rows) {
    if (!trajectories[row].is_outline && tells_share(runtime)) held[row] = trajectories[row].sample;
  }
  std::vector<data::Sample> samples;
  std::map<size_t, data::Sample> all;
  for (auto& of_rank : gather(runtime, held, "samples")) all.merge(of_rank);
  if (!is_root(runtime)) return samples;
  for (const size_t row : rows) samples.push_back(std::move(all.at(row)));
  return samples;
}

}  // namespace unigrpo::train
