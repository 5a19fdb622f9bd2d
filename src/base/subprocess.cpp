#include "base/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/clock.h"
#include "base/error.h"

extern char** environ;

namespace unigrpo {
namespace {

constexpr int kFirstPassed = 3;
constexpr int kAboveAll = 64;  // copies go here first, so that none is overwritten on its way to 3, 4, ...

std::string ending_of(int status) {
  if (WIFEXITED(status)) return fmt::format("exited with code {}", WEXITSTATUS(status));
  const char* name = sigabbrev_np(WTERMSIG(status));
  return name == nullptr ? fmt::format("was killed by signal {}", WTERMSIG(status))
                         : fmt::format("was killed by SIG{}", name);
}

int milliseconds(double seconds) { return static_cast<int>(std::min(std::max(seconds, 0.0) * 1e3 + 0.999, 2e9)); }

/// What posix_spawn is to do with descriptors, and the copies that it needs meanwhile.
class SpawnFiles {
 public:
  SpawnFiles() { posix_spawn_file_actions_init(&actions_); }
  ~SpawnFiles() {
    posix_spawn_file_actions_destroy(&actions_);
    for (const int copy : copies_) close(copy);
  }
  SpawnFiles(const SpawnFiles&) = delete;
  SpawnFiles& operator=(const SpawnFiles&) = delete;

  void pass(int descriptor, int as) {
    const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, kAboveAll);
    if (copy < 0) throw RuntimeFailure("cannot copy a descriptor: {}", std::strerror(errno));
    copies_.push_back(copy);
    posix_spawn_file_actions_adddup2(&actions_, copy, as);
  }
  void close_from(int first) { posix_spawn_file_actions_addclosefrom_np(&actions_, first); }
  void empty_input() { posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0); }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
  std::vector<int> copies_;
};

/// A session of its own: no terminal signal meant for us reaches it. Signals as a fresh program expects them.
class SpawnAttributes {
 public:
  SpawnAttributes() {
    posix_spawnattr_init(&attributes_);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnAttributes() { posix_spawnattr_destroy(&attributes_); }
  SpawnAttributes(const SpawnAttributes&) = delete;
  SpawnAttributes& operator=(const SpawnAttributes&) = delete;
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_{};
};

int spawn(const Subprocess::Options& options, int output, int lifeline) {
  SpawnFiles files;
  files.empty_input();
  files.pass(output, STDOUT_FILENO);
  files.pass(output, STDERR_FILENO);
  int next = kFirstPassed;
  for (const int descriptor : options.descriptors) files.pass(descriptor, next++);
  files.pass(lifeline, next++);
  files.close_from(next);
  const SpawnAttributes attributes;
  std::vector<char*> arguments;
  for (const std::string& argument : options.command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, arguments[0], files.get(), attributes.get(), arguments.data(), environ);
  if (error != 0) throw RuntimeFailure("{}: cannot be started: {}", options.command[0], std::strerror(error));
  return pid;
}

// ---- the supervisor's side ----

/// Processes whose parent is this one.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const int pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0) continue;
    std::ifstream file(entry.path() / "stat");
    std::string stat;
    std::getline(file, stat);
    const size_t name_end = stat.rfind(')');  // the name may hold anything
    char state = 0;
    int parent = 0;
    if (name_end != std::string::npos && std::sscanf(stat.c_str() + name_end + 1, " %c %d", &state, &parent) == 2 &&
        parent == getpid()) {
      found.push_back(pid);
    }
  }
  return found;
}

/// Orphans of those killed become children of this process, a subreaper; so the rounds end when none is left.
void kill_descendants() {
  for (;;) {
    for (const pid_t pid : children()) ::kill(pid, SIGKILL);
    pid_t reaped = 0;
    while ((reaped = waitpid(-1, nullptr, WNOHANG)) > 0) {
    }
    if (reaped < 0 && errno == ECHILD) return;
    usleep(500);
  }
}

/// Waits for the child's end (its status, in `status`) or for that of the other side of the lifeline (false).
bool child_ended(pid_t child, int signals, int lifeline, int& status) {
  for (;;) {
    std::array<pollfd, 2> events = {{{signals, POLLIN, 0}, {lifeline, POLLIN, 0}}};
    if (poll(events.data(), events.size(), -1) < 0) continue;
    if (events[0].revents != 0) {
      signalfd_siginfo drained;
      [[maybe_unused]] const ssize_t size = read(signals, &drained, sizeof drained);
      int each = 0;
      for (pid_t pid = 0; (pid = waitpid(-1, &each, WNOHANG)) > 0;) {
        if (pid != child) continue;
        status = each;
        return true;
      }
    }
    if (events[1].revents != 0) return false;
  }
}

[[noreturn]] void end_like(int status) {
  if (WIFSIGNALED(status)) {
    signal(WTERMSIG(status), SIG_DFL);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_UNBLOCK, &all, nullptr);
    raise(WTERMSIG(status));
  }
  _exit(WEXITSTATUS(status));
}

}  // namespace

std::filesystem::path program_folder() { return std::filesystem::read_symlink("/proc/self/exe").parent_path(); }

std::vector<std::string>& process_arguments() {
  static std::vector<std::string> arguments;
  return arguments;
}

Subprocess::Subprocess(const Options& options) {
  std::array<int, 2> output{}, lifeline{};
  if (pipe2(output.data(), O_CLOEXEC) != 0) throw RuntimeFailure("cannot make a pipe: {}", std::strerror(errno));
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lifeline.data()) != 0) {
    const int error = errno;
    close(output[0]);
    close(output[1]);
    throw RuntimeFailure("cannot make a pair of sockets: {}", std::strerror(error));
  }
  output_ = output[0];
  lifeline_ = lifeline[0];
  fcntl(output_, F_SETFL, O_NONBLOCK);
  fcntl(output_, F_SETPIPE_SZ, 1 << 20);  // where the system allows it: fewer rounds for those who write much
  try {
    pid_ = spawn(options, output[1], lifeline[1]);
  } catch (...) {
    for (const int each : {output[0], output[1], lifeline[0], lifeline[1]}) close(each);
    throw;
  }
  close(output[1]);
  close(lifeline[1]);
}

Subprocess::~Subprocess() {
  kill();
  close(output_);
  close(lifeline_);
}

bool Subprocess::wait(double seconds) {
  if (pid_ < 0) return true;
  const Stopwatch watch;
  pollfd event = {lifeline_, POLLIN, 0};
  int ready = 0;
  while ((ready = poll(&event, 1, milliseconds(seconds - watch.seconds()))) < 0 && errno == EINTR) {
  }
  if (ready <= 0) return false;
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  ending_ = ending_of(status);
  return true;
}

void Subprocess::kill() {
  constexpr double kPatience_s = 5;
  if (pid_ < 0) return;
  shutdown(lifeline_, SHUT_WR);  // the supervisor takes it for our end
  if (wait(kPatience_s)) return;
  ::kill(-pid_, SIGKILL);
  ::kill(pid_, SIGKILL);
  if (!wait(kPatience_s)) pid_ = -1;
}

void supervise(const SuperviseOptions& options, const std::function<int()>& work) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  signal(SIGPIPE, SIG_IGN);
  sigset_t child_signal, before;
  sigemptyset(&child_signal);
  sigaddset(&child_signal, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_signal, &before);
  const int signals = signalfd(-1, &child_signal, SFD_CLOEXEC);
  const pid_t supervisor = getpid();
  const pid_t child = fork();
  if (child == 0) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != supervisor) _exit(1);
    close(signals);
    close(options.lifeline);
    std::exit(work());
  }
  if (child < 0 || signals < 0) _exit(1);
  // The child's end of a channel must be the only one, or its death would not close it.
  for (const int descriptor : options.only_child) close(descriptor);
  close(STDOUT_FILENO);
  close(STDERR_FILENO);
  int status = 1 << 8;
  const bool ended = child_ended(child, signals, options.lifeline, status);
  kill_descendants();
  if (!ended) _exit(1);
  end_like(status);
}

}  // namespace unigrpo
