// `launch`: N ranks of a command on this machine, which meet over 127.0.0.1 alone and end together.
#include "cli/launch.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/subprocess.h"
#include "cli/commands.h"

namespace unigrpo::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::array kCommands = {"train", "sft", "eval", "sample", "profile"};
constexpr std::array kPassedOn = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};
constexpr double kGrace_s = 10;  // for ranks to end by themselves once one has failed; a stopped one cannot
constexpr size_t kMostLine = 1 << 16;
constexpr int kListenFd = 3;  // of rank 0

/// Where rank 0's store listens: on the loopback interface alone. Close-on-exec; rank 0 gets a copy.
class LoopbackSocket {
 public:
  LoopbackSocket() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    if (fd_ < 0 || bind(fd_, any, length) != 0 || listen(fd_, SOMAXCONN) != 0 || getsockname(fd_, any, &length) != 0) {
      throw RuntimeFailure("launch: cannot listen on 127.0.0.1: {}", std::strerror(errno));
    }
    port_ = ntohs(address.sin_port);
  }
  ~LoopbackSocket() { close(fd_); }
  LoopbackSocket(const LoopbackSocket&) = delete;
  LoopbackSocket& operator=(const LoopbackSocket&) = delete;
  int fd() const { return fd_; }
  int port() const { return port_; }

 private:
  int fd_;
  int port_ = 0;
};

/// One rank: its process, and its stderr, which is passed on line by line with "[rank]" before each.
class RankProcess {
 public:
  struct Options {
    int64_t rank = 0, size = 1, restart = 0;
    const LoopbackSocket& socket;
    const std::vector<std::string>& command;  // the program first
    fs::path log_file;                        // empty: none
  };
  explicit RankProcess(const Options& options) : rank_(options.rank) {
    if (!options.log_file.empty()) {
      log_.open(options.log_file, std::ios::app);
      if (!log_) throw BadInput("--log-dir: {}: cannot be written", options.log_file.string());
    }
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) throw RuntimeFailure("cannot make a pipe: {}", std::strerror(errno));
    output_ = ends[0];
    fcntl(output_, F_SETFL, O_NONBLOCK);
    std::fflush(nullptr);
    const pid_t launcher = getpid();
    pid_ = fork();
    if (pid_ == 0) become(options, ends[1], launcher);
    close(ends[1]);
    if (pid_ < 0) throw RuntimeFailure("cannot start a rank: {}", std::strerror(errno));
  }
  ~RankProcess() {
    if (!end_) {
      ::kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    relay();
    if (!line_.empty()) pass_on();
    close(output_);
  }
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  pid_t pid() const { return pid_; }
  int output() const { return output_; }
  const std::optional<RankEnd>& end() const { return end_; }

  void send(int signal) {
    if (end_) return;
    ::kill(pid_, signal);
    sent_ = true;
  }

  /// A rank that ended after a signal of the launcher's was not lost.
  void ended(int status) {
    end_ = WIFSIGNALED(status) ? RankEnd{.signal = WTERMSIG(status), .by_launcher = sent_}
                               : RankEnd{.code = WEXITSTATUS(status), .by_launcher = sent_};
  }

  /// Passes on what has come. False: the other side has closed.
  bool relay() {
    std::array<char, 1 << 14> buffer{};
    for (;;) {
      const ssize_t size = read(output_, buffer.data(), buffer.size());
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) return size < 0;
      for (const char c : std::string_view(buffer.data(), static_cast<size_t>(size))) {
        if (c != '\n') line_ += c;
        if (c == '\n' || line_.size() >= kMostLine) pass_on();
      }
    }
  }

  std::string described() const {
    if (end_->signal == 0) return fmt::format("rank {} ended with code {}", rank_, end_->code);
    const char* const name = sigabbrev_np(end_->signal);
    return fmt::format("rank {} was killed by {}", rank_,
                       name == nullptr ? fmt::format("signal {}", end_->signal) : fmt::format("SIG{}", name));
  }

 private:
  void pass_on() {
    fmt::print(stderr, "[{}] {}\n", rank_, line_);
    if (log_.is_open()) log_ << line_ << std::endl;
    line_.clear();
  }

  /// The child's side, until the program starts.
  [[noreturn]] static void become(const Options& options, int output, pid_t launcher) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // however the launcher ends, a stopped rank too
    if (getppid() != launcher) _exit(1);
    setpgid(0, 0);  // the terminal's Ctrl-C comes once, passed on by the launcher
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    const int input = open("/dev/null", O_RDONLY);
    dup2(input, STDIN_FILENO);
    if (options.rank != 0) dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    const auto set = [](const char* name, const std::string& value) { setenv(name, value.c_str(), 1); };
    for (const char* name : {"TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
                             "TORCHELASTIC_ERROR_FILE", "UNIGRPO_LISTEN_FD"}) {
      unsetenv(name);
    }
    set("RANK", std::to_string(options.rank));
    set("WORLD_SIZE", std::to_string(options.size));
    set("LOCAL_RANK", std::to_string(options.rank));
    set("LOCAL_WORLD_SIZE", std::to_string(options.size));
    set("MASTER_ADDR", "127.0.0.1");
    set("MASTER_PORT", std::to_string(options.socket.port()));
    set("UNIGRPO_RESTART", std::to_string(options.restart));
    if (options.rank == 0) {
      set("UNIGRPO_LISTEN_FD", std::to_string(kListenFd));
      if (options.socket.fd() == kListenFd) {
        fcntl(kListenFd, F_SETFD, 0);
      } else {
        dup2(options.socket.fd(), kListenFd);
      }
    }
    std::vector<char*> arguments;
    for (const std::string& argument : options.command) arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    fmt::print(stderr, "{}: cannot be started: {}\n", arguments[0], std::strerror(errno));
    _exit(1);
  }

  int64_t rank_;
  pid_t pid_ = -1;
  int output_ = -1;
  bool sent_ = false;
  std::optional<RankEnd> end_;
  std::string line_;
  std::ofstream log_;
};

/// The signals that end a job, and those of children, read as they come.
class Signals {
 public:
  Signals() {
    sigset_t taken;
    sigemptyset(&taken);
    sigaddset(&taken, SIGCHLD);
    for (const int signal : kPassedOn) sigaddset(&taken, signal);
    sigprocmask(SIG_BLOCK, &taken, nullptr);
    fd_ = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd_ < 0) throw RuntimeFailure("cannot wait for signals: {}", std::strerror(errno));
  }
  ~Signals() { close(fd_); }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  int fd() const { return fd_; }
  /// The next one but SIGCHLD; 0 where there is none.
  int next() const {
    signalfd_siginfo info{};
    while (read(fd_, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo != SIGCHLD) return static_cast<int>(info.ssi_signo);
    }
    return 0;
  }

 private:
  int fd_ = -1;
};

/// One life of the job: all ranks from their start to the end of the last one.
class Job {
 public:
  Job(const LaunchOptions& options, const std::vector<std::string>& command, int64_t restart, const Signals& signals)
      : signals_(signals) {
    for (int64_t rank = 0; rank < options.num_ranks; ++rank) {
      ranks_.push_back(std::make_unique<RankProcess>(RankProcess::Options{
          .rank = rank,
          .size = options.num_ranks,
          .restart = restart,
          .socket = socket_,
          .command = command,
          .log_file =
              options.log_dir.empty() ? fs::path() : fs::path(options.log_dir) / fmt::format("rank_{}.txt", rank)}));
    }
  }

  ExitCode run() {
    while (!reap()) {
      wait_for_events();
      for (int signal = signals_.next(); signal != 0; signal = signals_.next()) {
        stopping_ = true;
        for (const auto& rank : ranks_) rank->send(signal);
      }
      if (failed_ && since_failure_.seconds() > kGrace_s) {
        for (const auto& rank : ranks_) rank->send(SIGKILL);
      }
    }
    std::vector<RankEnd> ends;
    for (const auto& rank : ranks_) ends.push_back(*rank->end());
    return job_code(ends);
  }

  /// Whether somebody asked the job to stop: then it is not started again.
  bool stopping() const { return stopping_; }

 private:
  /// Until something happens or 100 ms have gone by.
  void wait_for_events() {
    std::vector<pollfd> events = {{signals_.fd(), POLLIN, 0}};
    for (const auto& rank : ranks_) events.push_back({closed_[rank.get()] ? -1 : rank->output(), POLLIN, 0});
    poll(events.data(), events.size(), 100);
    for (const auto& rank : ranks_) {
      if (!closed_[rank.get()]) closed_[rank.get()] = !rank->relay();
    }
  }

  /// Takes note of who has ended; true when all have. The first failure ends the others.
  bool reap() {
    bool all = true;
    for (const auto& rank : ranks_) {
      int status = 0;
      if (!rank->end() && waitpid(rank->pid(), &status, WNOHANG) == rank->pid()) {
        rank->ended(status);
        rank->relay();
        const RankEnd& end = *rank->end();
        const bool well = end.signal == 0 ? end.code == 0 || end.code == static_cast<int>(ExitCode::interrupted)
                                          : end.by_launcher && end.signal != SIGKILL;
        if (!well && !failed_) {
          fmt::print(stderr, "launch: {}\n", rank->described());
          failed_ = true;
          since_failure_.restart();
          for (const auto& other : ranks_) other->send(SIGTERM);
        }
      }
      all = all && rank->end();
    }
    return all;
  }

  LoopbackSocket socket_;
  const Signals& signals_;
  std::vector<std::unique_ptr<RankProcess>> ranks_;
  std::map<const RankProcess*, bool> closed_;
  bool failed_ = false, stopping_ = false;
  Stopwatch since_failure_;
};

std::vector<std::string> command_of(const LaunchOptions& options, bool resume) {
  std::vector<std::string> command = {(program_folder() / "unigrpo").string(), options.command[0]};
  const bool resumes = options.command[0] == "train" || options.command[0] == "sft";
  if (resume && resumes && std::ranges::find(options.command, "--resume") == options.command.end()) {
    command.emplace_back("--resume");
  }
  command.insert(command.end(), options.command.begin() + 1, options.command.end());
  return command;
}

int run_launch(const LaunchOptions& options) {
  const std::string usage = "see `unigrpo launch --help`";
  const std::vector<std::string> arguments = process_arguments();
  const auto dashes = std::ranges::find(arguments, "--");
  if (dashes == arguments.end() ||
      !std::equal(dashes + 1, arguments.end(), options.command.begin(), options.command.end())) {
    throw BadInput("launch: expected '--' before the command of the ranks; {}", usage);
  }
  if (options.command.empty()) throw BadInput("launch: expected a command after '--'; {}", usage);
  if (std::ranges::find(kCommands, options.command[0]) == kCommands.end()) {
    throw BadInput("launch: expected {} after '--', got '{}'", fmt::join(kCommands, ", "), options.command[0]);
  }
  if (!options.log_dir.empty()) {
    std::error_code error;
    fs::create_directories(options.log_dir, error);
    if (error) throw BadInput("--log-dir: {}: cannot be made: {}", options.log_dir, error.message());
  }
  const Signals signals;
  for (int64_t restart = 0;; ++restart) {
    Job job(options, command_of(options, restart > 0), restart, signals);
    const ExitCode code = job.run();
    if (code != ExitCode::try_again || job.stopping() || restart == options.max_restarts) return static_cast<int>(code);
    fmt::print(stderr, "launch: starting the ranks again ({} of {})\n", restart + 1, options.max_restarts);
  }
}

}  // namespace

ExitCode job_code(const std::vector<RankEnd>& ends) {
  bool done = true, bad_input = false, failed = false, lost = false;
  for (const RankEnd& end : ends) {
    if (end.signal != 0) {
      lost = lost || !end.by_launcher || end.signal == SIGKILL;
      done = false;
      continue;
    }
    const auto code = static_cast<ExitCode>(end.code);
    done = done && code == ExitCode::done;
    bad_input = bad_input || code == ExitCode::bad_input;
    lost = lost || code == ExitCode::try_again;
    failed = failed || (code != ExitCode::done && code != ExitCode::bad_input && code != ExitCode::try_again &&
                        code != ExitCode::interrupted);
  }
  if (done) return ExitCode::done;
  if (bad_input) return ExitCode::bad_input;
  if (failed) return ExitCode::failed;
  return lost ? ExitCode::try_again : ExitCode::interrupted;
}

Run declare_launch(CLI::App& app) {
  const auto options = std::make_shared<LaunchOptions>();
  app.add_option("-n,--num-ranks", options->num_ranks, "Ranks to start on this machine")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1024}));
  app.add_option("--max-restarts", options->max_restarts,
                 "How often to start all ranks again, with --resume, after one was lost (default 0)")
      ->check(CLI::Range(int64_t{0}, int64_t{1000000}));
  app.add_option("--log-dir", options->log_dir, "Folder for each rank's stderr too: rank_N.txt");
  app.add_option("command", options->command, "After --: the command that each rank runs")->type_name("COMMAND ...");
  return [options] { return run_launch(*options); };
}

}  // namespace unigrpo::cli
