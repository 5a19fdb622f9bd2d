#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace unigrpo::parallel {

/// Where this process stands among those that a launcher started for one command, as environment variables say.
struct World {
  bool launched = false;  // by a launcher that numbers its processes; else this is one process by itself
  int64_t rank = 0;
  int64_t size = 1;
  int64_t local_rank = 0;  // among those on this machine
  int64_t local_size = 1;  // how many those are, as far as the launcher tells
  std::string address;     // of the store where the ranks meet; empty where there is one rank
  uint16_t port = 0;
  bool launcher_has_store = false;  // torchrun's agent opened it, and rank 0 connects like the others
  std::optional<int> listen_fd;     // a listening socket that `unigrpo launch` opened for rank 0's store
  std::string run_id;               // of torchrun or Slurm
  int64_t restart = 0;              // how often the launcher has started the ranks anew
};

/// Reads one variable; nothing where it is not set. Tests give a table.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
std::optional<std::string> process_environment(const std::string& name);

/// The plain names (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: torchrun, Kubernetes, `unigrpo launch`),
/// else those of a Slurm step (srun), Open MPI or PMI (MPICH); one process where there are none. A batch script alone
/// is one process too: Slurm sets SLURM_NTASKS there, but no SLURM_STEP_NUM_TASKS. Throws BadInput with the variables
/// and their values: half of a set, no number, a rank beyond the size, two launchers that disagree (plain names win
/// without a word), several ranks without an address where to meet.
World read_world(const Environment& environment = process_environment);

/// The device of this rank where a recipe or an option (`where`) says `text`: of "cuda" the one numbered by its local
/// rank, or the first where the launcher shows each process one device alone (CUDA_VISIBLE_DEVICES). Throws BadInput
/// for "cuda:N" where ranks of one machine would share it.
std::string device_of_rank(const World& world, const std::string& text, const std::string& where,
                           const Environment& environment = process_environment);

/// "node07" of "node[07-09,12],other": the first name of a Slurm list.
std::string first_host(const std::string& node_list);

}  // namespace unigrpo::parallel
