#pragma once

#include <filesystem>
#include <functional>

#include "parallel/config.h"
#include "parallel/groups.h"
#include "parallel/meeting.h"
#include "parallel/world.h"
#include "runtime/runtime.h"

namespace unigrpo::cli {

/// What a command knows before it meets the other ranks.
struct Preparation {
  Runtime runtime = {};        // of one process
  parallel::Terms terms = {};  // build, LibTorch and command line are added
  parallel::Deadlines deadlines = {};
  parallel::GroupShape shape = {};
  bool closes_store = true;  // once the groups of the shape are made; else more may follow
  parallel::Backend backend = parallel::Backend::automatic;
  std::filesystem::path run_folder = {};  // for reports of hangs; empty: none
};

/// Runs a command as one of the ranks that a launcher has started, or by itself where there is none: `prepare`, then
/// the meeting, then `work`, whose return value is the exit code. Where one rank's `prepare` fails, all end as it does.
///
/// A rank that fails tells the others before it ends. One that loses another ends here and now with exit code 75: a
/// launcher that sees a rank die asks the others to end, and is given 5 s for that, since torchrun blames those that
/// are quicker than itself.
using Prepare = std::function<Preparation(const parallel::World& world)>;
int run_on_ranks(const Prepare& prepare, const std::function<int(const Runtime&)>& work);

}  // namespace unigrpo::cli
