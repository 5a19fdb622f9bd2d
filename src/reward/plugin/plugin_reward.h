#pragma once

#include <memory>
#include <optional>

#include "base/signals.h"
#include "reward/config.h"
#include "reward/plugin/file_copy.h"
#include "reward/plugin/judge.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// A reward that its author brings: a shared library over include/unigrpo, or a program that speaks
/// docs/REWARD_PROTOCOL.md. With isolate = process it lives in worker processes that may crash, hang or end; a sample
/// with which they do has no score and the cause as reason, and no other sample loses its own. The file is the one that
/// was there at the start, whatever becomes of it on disk. A stop ends workers at once; a library in this process
/// (isolate = none) cannot be ended: whoever calls it must do so from a thread that may be left behind.
class PluginReward : public Reward {
 public:
  /// Starts it; messages call it `name`. Throws BadInput naming the file: not there, not to be trusted
  /// (world-writable), no plugin of this ABI version, or one that refuses its settings; Interrupted where a stop was
  /// asked for before it was ready.
  PluginReward(std::string name, const PluginConfig& config, StopToken stop = {});
  ~PluginReward() override;

  std::vector<Score> score(std::span<const data::Sample> samples) override;
  bool wants_groups() const override { return description().wants_groups; }
  std::vector<std::string> dimensions() const override;

  const plugin::Description& description() const;
  const std::string& sha256() const { return copy_->sha256(); }

 private:
  std::unique_ptr<plugin::Judge> make_judge() const;
  using Unit = std::vector<size_t>;  // samples that go together: one, or a group
  std::vector<Unit> units_of(std::span<const data::Sample> samples) const;
  void judge_batch(plugin::Judge& judge, std::span<const plugin::SampleView> views, std::span<const Unit> units,
                   std::vector<Score>& scores) const;
  std::optional<std::string> judge_units(plugin::Judge& judge, std::span<const plugin::SampleView> views,
                                         std::span<const Unit> units, std::vector<Score>& scores) const;
  std::string introduction() const;

  std::string name_;
  PluginConfig config_;
  StopToken stop_;
  std::string path_;
  std::unique_ptr<plugin::FileCopy> copy_;
  std::vector<std::unique_ptr<plugin::Judge>> owned_;
  std::vector<plugin::Judge*> judges_;  // one a thread; the same library several times where it serves several threads
  bool introduced_ = false;
};

std::unique_ptr<PluginReward> make_plugin_reward(const TermConfig& term, StopToken stop);

}  // namespace unigrpo::reward
