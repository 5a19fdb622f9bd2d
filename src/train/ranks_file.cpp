#include "train/ranks_file.h"

#include <nlohmann/json.hpp>

#include "io/atomic_file.h"
#include "parallel/comm.h"
#include "parallel/groups.h"
#include "parallel/meeting.h"
#include "runtime/ranks.h"

namespace unigrpo::train {

void write_ranks_file(const std::filesystem::path& run_folder, const Runtime& runtime,
                      const parallel::ShardedModel* sharded) {
  if (!runtime.mesh.restart) return;
  using Json = nlohmann::ordered_json;
  const std::vector<parallel::Peer> alone = {parallel::this_process({}, runtime.device.str())};
  Json ranks = Json::array();
  for (const parallel::Peer& peer : runtime.comm ? runtime.comm->peers() : alone) {
    ranks.push_back({{"rank", peer.rank}, {"pid", peer.pid}, {"host", peer.host}, {"device", peer.device}});
  }
  const auto shape = runtime.groups ? runtime.groups->shape : parallel::GroupShape{};
  const Json file = {{"world_size", runtime.mesh.world_size},
                     {"mesh",
                      {{"stages", runtime.comm ? shape.stages() : 1},
                       {"data", num_shares(runtime) / (runtime.comm ? shape.stages() : 1)},
                       {"shard", sharded ? sharded->num_ranks() : 1},
                       {"sequence", shape.sp},
                       {"tensor", shape.tp}}},
                     {"restart", *runtime.mesh.restart},
                     {"ranks", ranks}};
  io::write_file_atomic(run_folder / "ranks.json", file.dump(2) + "\n");
}

}  // namespace unigrpo::train
