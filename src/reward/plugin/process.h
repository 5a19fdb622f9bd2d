#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/shared_memory.h"
#include "base/signals.h"
#include "base/subprocess.h"
#include "reward/plugin/judge.h"
#include "reward/plugin/protocol.h"

namespace unigrpo::reward::plugin {

/// What a worker prints, line by line into the log; of one call at most a few lines' worth.
class OutputLog {
 public:
  explicit OutputLog(std::string reward) : reward_(std::move(reward)) {}
  void new_call() { budget_ = kBytesPerCall; }
  /// Takes what is there, at most one block; false once nobody can write any more.
  bool take(int descriptor);
  /// Takes all that is left and ends the last line.
  void finish(int descriptor);

 private:
  static constexpr int64_t kBytesPerCall = 8 << 10;
  void put_line();
  std::string reward_;
  std::string line_;
  int64_t budget_ = kBytesPerCall;
};

struct WorkerOptions {
  std::string reward;          // its name, for the log
  std::filesystem::path path;  // absolute
  bool is_program = false;     // the path is the worker itself, else a library for ours
  int copy = -1;               // descriptor of the file as it was when the run began: what is run
  std::string sha256;          // of that copy
  std::string settings_json = "{}";
  double timeout_s = 60;        // of a call
  double start_timeout_s = 60;  // until it is ready
  uint64_t memory_bytes = uint64_t{8} << 30;
  StopToken stop = {};  // asked while the worker is waited for, which is then killed
};

/// A reward in a process of its own (unigrpo-reward-worker, or a program that speaks docs/REWARD_PROTOCOL.md). It may
/// crash, end, hang or babble: the call then fails, with the cause, and the next call finds a fresh process.
class Worker : public Judge {
 public:
  /// Starts it. Throws BadInput naming the path where the plugin refuses its settings, ends or hangs instead of getting
  /// ready.
  explicit Worker(WorkerOptions options);
  ~Worker() override;  // lets it end by itself for 2 s, or 0.1 s once a stop is asked for
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  const Description& description() const override { return description_; }
  Answer score(std::span<const SampleView> samples) override;

 private:
  /// The frame that answers; or why none came, and the process is gone.
  struct Reply {
    std::optional<Frame> frame;
    std::string failure;
  };
  Description start();
  std::string program();
  Reply exchange(Frame request, double timeout_s);
  Reply receive(uint32_t sequence, double timeout_s);
  std::string lost();
  std::string killed(std::string why);
  void replace_if_dead();
  void close_control();

  WorkerOptions options_;
  SharedMemory memory_;
  OutputLog output_;
  std::unique_ptr<Subprocess> process_;  // empty: none is running
  int control_ = -1;
  uint32_t sequence_ = 0;
  Description description_;
  bool change_told_ = false;
};

}  // namespace unigrpo::reward::plugin
