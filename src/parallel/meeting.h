#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/failure.h"
#include "base/signals.h"
#include "parallel/comm.h"
#include "parallel/world.h"

namespace unigrpo::parallel {

/// What a rank brings to the meeting.
struct Terms {
  std::vector<std::pair<std::string, std::string>> same = {};  // name and text of what must be equal on all ranks
  std::string device = "cpu";
  std::optional<Failure> failure = {};  // why this rank cannot take part: then all end with it
};

/// This process, as the other ranks will know it.
Peer this_process(const World& world, const std::string& device);

/// The ranks of a world meet at its store, hold their terms against rank 0's and become a group. Returns nothing in a
/// world of one rank, which opens no socket; else the process ignores SIGPIPE from here on.
///
/// Throws BadInput where the terms differ (both ranks named, and the first line that differs), where two processes
/// claim one rank, or a rank brings a BadInput; PeerLost where the store or a rank does not come within the meeting's
/// deadline, with the address and who is missing; Interrupted where a stop is asked for meanwhile.
std::shared_ptr<Comm> meet(const World& world, const Terms& terms, const Comm::Options& options, StopToken stop);

}  // namespace unigrpo::parallel
