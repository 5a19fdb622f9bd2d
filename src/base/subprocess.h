#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace unigrpo {

/// The folder of this process's program, whichever link it was started by: where our other programs stand, in the build
/// as in an installation.
std::filesystem::path program_folder();

/// The command line of this process, its program first; main fills it.
std::vector<std::string>& process_arguments();

/// A program that lives no longer than this object or this process, however either of them ends: it and all that it
/// starts are killed, in sessions of their own too. The program's main must call `supervise`. Its standard input is
/// empty, its standard output and error are one pipe.
class Subprocess {
 public:
  struct Options {
    std::vector<std::string> command;  // a path, and arguments
    std::vector<int> descriptors;      // copies arrive as 3, 4, ...; it gets no others of ours
  };
  /// Throws RuntimeFailure where the program cannot be started.
  explicit Subprocess(const Options& options);
  ~Subprocess();  // kill()
  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;

  /// Read end of its output; does not block.
  int output() const { return output_; }
  /// Becomes readable when all is over.
  int lifeline() const { return lifeline_; }
  /// Waits for the program's own end, and that of all that it started. False: it has not come within the time.
  bool wait(double seconds);
  /// After wait() gave true: "was killed by SIGSEGV", "exited with code 3".
  const std::string& ending() const { return ending_; }
  /// Kills it and all that it started; back when none is left (or stuck in the kernel for 5 s).
  void kill();

 private:
  int pid_ = -1;
  int output_ = -1;
  int lifeline_ = -1;
  std::string ending_;
};

struct SuperviseOptions {
  int lifeline = -1;            // the last descriptor that Subprocess passed on, one behind Options::descriptors
  std::vector<int> only_child;  // descriptors for the child alone
};

/// Runs `work` in a child and stays behind to see that nothing outlives it: when the child ends, or the process that
/// holds the other end of the lifeline does, every descendant is killed. Then ends as the child did: by the same signal
/// or with the same code. Call it before any thread is started.
[[noreturn]] void supervise(const SuperviseOptions& options, const std::function<int()>& work);

}  // namespace unigrpo
