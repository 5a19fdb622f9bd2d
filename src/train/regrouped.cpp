#include "train/regrouped.h"

#include "base/bytes.h"
#include "parallel/groups.h"
#include "rollout/trajectory_bytes.h"
#include "runtime/ranks.h"

namespace unigrpo::train {
namespace {

/// What a rank gives to other stages.
struct Given {
  std::vector<int64_t> rows;
  std::string parcel;
};

template <typename Bytes, SameAs<Given> T>
void fields(Bytes& bytes, T& given) {
  bytes(given.rows, given.parcel);
}

}  // namespace

Regrouped::~Regrouped() {
  for (auto& [row, outline] : outlines_) trajectories_[static_cast<size_t>(row)] = std::move(outline);
}

void Regrouped::keep_outlines(std::span<const int64_t> rows) {
  for (const int64_t row : rows) outlines_.emplace_back(row, trajectories_[static_cast<size_t>(row)]);
}

void share_with_stages(const Runtime& runtime, uint64_t weights_version, Regrouped& regrouped) {
  if (!has_stages(runtime)) return;
  std::vector<rollout::Trajectory>& trajectories = regrouped.trajectories();
  Given own;
  for (size_t row = 0; row < trajectories.size(); ++row) {
    if (!trajectories[row].is_outline) own.rows.push_back(static_cast<int64_t>(row));
  }
  own.parcel = rollout::to_parcel(trajectories, own.rows, weights_version);
  parallel::Comm& ranks = *runtime.groups->pipeline;
  const std::vector<std::string> all = ranks.gather_bytes(to_bytes(own), "samples");
  for (int64_t stage = 0; stage < ranks.size(); ++stage) {
    if (stage == ranks.rank()) continue;
    Given given;
    from_bytes(all[static_cast<size_t>(stage)], given);
    regrouped.keep_outlines(given.rows);
    rollout::open_parcel(given.parcel, weights_version, trajectories);
  }
}

}  // namespace unigrpo::train
