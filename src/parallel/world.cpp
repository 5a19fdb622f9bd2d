#include "parallel/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <vector>

#include "base/error.h"

namespace unigrpo::parallel {
namespace {

/// How a launcher calls what it tells. A set is there when its rank or its size is.
struct Names {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
  bool local_rank_required;
  const char* local_size;
};
constexpr Names kPlain = {"the launcher", "RANK", "WORLD_SIZE", "LOCAL_RANK", false, "LOCAL_WORLD_SIZE"};
constexpr Names kOthers[] = {
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", true, "SLURM_NTASKS_PER_NODE"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", true,
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", false, "MPI_LOCALNRANKS"},
};

/// Reads variables and keeps what it saw, for messages.
class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  std::optional<std::string> text(const std::string& name) const { return environment_(name); }
  std::optional<int64_t> number(const std::string& name, int64_t most = std::numeric_limits<int32_t>::max()) const {
    const auto found = environment_(name);
    if (!found) return std::nullopt;
    int64_t value = 0;
    const char* const last = found->data() + found->size();
    const auto [stop, error] = std::from_chars(found->data(), last, value);
    if (error != std::errc() || stop != last || value < 0 || value > most) {
      throw BadInput("{}='{}': expected a whole number from 0 to {}", name, *found, most);
    }
    return value;
  }
  /// "RANK=1, WORLD_SIZE is not set".
  std::string shown(std::initializer_list<const char*> names) const {
    std::string all;
    for (const char* name : names) {
      const auto found = environment_(name);
      if (!all.empty()) all += ", ";
      all += found ? fmt::format("{}={}", name, *found) : fmt::format("{} is not set", name);
    }
    return all;
  }

 private:
  const Environment& environment_;
};

/// Rank, size and local rank of one set of names; nothing where the set is not there.
std::optional<World> read_set(const Variables& variables, const Names& names) {
  const auto rank = variables.number(names.rank);
  const auto size = variables.number(names.size);
  // Slurm numbers the processes of a batch script too (SLURM_PROCID), but gives the size to those of a step alone.
  const bool slurm = std::string_view(names.size) == "SLURM_STEP_NUM_TASKS";
  if (slurm ? !size : !rank && !size) return std::nullopt;
  const auto local_rank = variables.number(names.local_rank);
  const auto shown = [&] { return variables.shown({names.rank, names.size, names.local_rank}); };
  if (!rank || !size || (names.local_rank_required && !local_rank)) {
    throw BadInput("{} has told half of where this process stands: {}", names.launcher, shown());
  }
  if (*size == 0) throw BadInput("{}: expected at least one rank", shown());
  if (*rank >= *size) throw BadInput("{}: expected a rank below {}", shown(), *size);
  if (local_rank && *local_rank > *rank) {
    throw BadInput("{}: expected a local rank of at most the rank", shown());
  }
  World world;
  world.launched = true;
  world.rank = *rank;
  world.size = *size;
  world.local_rank = local_rank.value_or(0);
  world.local_size = std::clamp<int64_t>(variables.number(names.local_size).value_or(1), world.local_rank + 1, *size);
  return world;
}

/// Of the sets other than the plain one.
std::optional<World> read_other_sets(const Variables& variables, const Names*& chosen) {
  std::optional<World> world;
  for (const Names& names : kOthers) {
    const auto found = read_set(variables, names);
    if (!found) continue;
    if (!world) {
      world = found;
      chosen = &names;
    } else if (world->rank != found->rank || world->size != found->size) {
      throw BadInput("{} and {} disagree: {}; {}: set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT",
                     chosen->launcher, names.launcher, variables.shown({chosen->rank, chosen->size}),
                     variables.shown({names.rank, names.size}));
    }
  }
  return world;
}

/// Between the privileged ports and those that systems give to outgoing connections; steps of a job may run side by
/// side.
uint16_t slurm_port(int64_t job, int64_t step) {
  constexpr int64_t kFirst = 15000, kCount = 15000;
  return static_cast<uint16_t>(kFirst + (job * 7 + step) % kCount);
}

void read_address(const Variables& variables, const Names& names, World& world) {
  constexpr int64_t kMostPort = 65535, kMostId = std::numeric_limits<int64_t>::max() / 8;
  const auto port = variables.number("MASTER_PORT", kMostPort);
  world.address = variables.text("MASTER_ADDR").value_or("");
  world.port = static_cast<uint16_t>(port.value_or(0));
  if (std::string_view(names.launcher) == "srun") {
    const auto nodes = variables.text("SLURM_STEP_NODELIST");
    const auto job = variables.number("SLURM_JOB_ID", kMostId);
    if (world.address.empty() && nodes) world.address = first_host(*nodes);
    if (world.port == 0 && job) world.port = slurm_port(*job, variables.number("SLURM_STEP_ID", kMostId).value_or(0));
    if (world.address.empty() || world.port == 0) {
      throw BadInput("srun has told half of where the ranks meet: {}",
                     variables.shown({"SLURM_STEP_NODELIST", "SLURM_JOB_ID", "MASTER_ADDR", "MASTER_PORT"}));
    }
  }
  if (world.address.empty() || world.port == 0) {
    throw BadInput("{}, {}: {} ranks need an address and a port where they meet",
                   variables.shown({names.rank, names.size}), variables.shown({"MASTER_ADDR", "MASTER_PORT"}),
                   world.size);
  }
}

}  // namespace

std::optional<std::string> process_environment(const std::string& name) {
  const char* text = std::getenv(name.c_str());
  if (text == nullptr || *text == '\0') return std::nullopt;
  return text;
}

std::string device_of_rank(const World& world, const std::string& text, const std::string& where,
                           const Environment& environment) {
  if (world.local_size < 2 || !text.starts_with("cuda")) return text;
  if (text != "cuda") {
    throw BadInput(
        "{}: \"{}\" is one device, and {} ranks of this machine would share it; expected \"cuda\": a device a rank",
        where, text, world.local_size);
  }
  const std::string shown = environment("CUDA_VISIBLE_DEVICES").value_or(",");
  return shown.find(',') == std::string::npos ? "cuda:0" : fmt::format("cuda:{}", world.local_rank);
}

std::string first_host(const std::string& node_list) {
  const size_t bracket = node_list.find('['), comma = node_list.find(',');
  if (comma < bracket) return node_list.substr(0, comma);
  if (bracket == std::string::npos) return node_list;
  const size_t close = node_list.find(']', bracket);
  if (close == std::string::npos) throw BadInput("SLURM_STEP_NODELIST={}: a '[' without its ']'", node_list);
  const size_t number_end = node_list.find_first_of(",-]", bracket);
  // What follows the bracket may hold another one: "rack[1-2]node[3-4]".
  return first_host(node_list.substr(0, bracket) + node_list.substr(bracket + 1, number_end - bracket - 1) +
                    node_list.substr(close + 1));
}

World read_world(const Environment& environment) {
  const Variables variables(environment);
  const Names* chosen = &kPlain;
  auto found = read_set(variables, kPlain);
  if (!found) found = read_other_sets(variables, chosen);
  if (!found) return {};
  World world = *found;
  if (world.size > 1) read_address(variables, *chosen, world);
  world.launcher_has_store = variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  for (const char* name : {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"}) {
    if (world.run_id.empty()) world.run_id = variables.text(name).value_or("");
  }
  for (const char* name : {"UNIGRPO_RESTART", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"}) {
    if (const auto count = variables.number(name)) {
      world.restart = *count;
      break;
    }
  }
  if (const auto fd = variables.number("UNIGRPO_LISTEN_FD"); fd && world.rank == 0) {
    world.listen_fd = static_cast<int>(*fd);
  }
  return world;
}

}  // namespace unigrpo::parallel
