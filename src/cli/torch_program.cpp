// The commands that need LibTorch, in the program that does without it: each hands over to unigrpo-torch, which holds
// everything, by exec: the same process, arguments, signals and exit code.
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/subprocess.h"
#include "cli/model_commands.h"
#include "reward/plugin/plugin_reward.h"

namespace unigrpo::cli {
namespace {

/// OpenMP's threads wait for work by spinning, for 3 ms at the end of every operation (libgomp): beside another busy
/// process they take its time and one another's, and a step takes three times as long. Spinning for some 10 us bridges
/// neighbouring operations. It is read where OpenMP is loaded, hence here. What the user has set stays.
void let_threads_sleep() {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "PASSIVE", 0);
  setenv("GOMP_SPINCOUNT", "1000", 0);
}

int hand_over() {
  let_threads_sleep();
  const std::string program = (program_folder() / "unigrpo-torch").string();
  std::vector<std::string> texts = process_arguments();
  std::vector<char*> arguments;
  for (std::string& text : texts) arguments.push_back(text.data());
  arguments.push_back(nullptr);
  execv(program.c_str(), arguments.data());
  if (errno == ENOENT) {
    throw RuntimeFailure("{}: not there; this command needs LibTorch, which a build without it lacks", program);
  }
  throw RuntimeFailure("{}: cannot be started: {}", program, std::strerror(errno));
}

}  // namespace

int run(const TrainOptions&) { return hand_over(); }
int run(const SftOptions&) { return hand_over(); }
int run(const SampleOptions&) { return hand_over(); }
int run(const EvalOptions&) { return hand_over(); }
int run(const ExportOptions&) { return hand_over(); }
int run(const InitOptions&) { return hand_over(); }
int run(const SelftestOptions&) { return hand_over(); }
int run(const ProfileOptions&) { return hand_over(); }

reward::Rewarder make_rewarder(const reward::RewardConfig& config, StopToken stop) {
  for (const reward::TermConfig& term : config.terms) {
    if (term.kind != reward::RewardKind::plugin) hand_over();
  }
  return {config, [stop](const reward::TermConfig& term) { return reward::make_plugin_reward(term, stop); }, stop};
}

}  // namespace unigrpo::cli
