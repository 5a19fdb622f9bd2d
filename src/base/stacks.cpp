#include "base/stacks.h"

#include <cxxabi.h>
#include <dirent.h>
#include <execinfo.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace unigrpo {
namespace {

using namespace std::chrono_literals;

constexpr int kMostFrames = 64;
constexpr auto kThreadPatience = 100ms;  // a thread

struct Capture {
  std::array<void*, kMostFrames> frames{};
  std::atomic<int> count{-1};  // -1: not taken yet
  std::atomic<long> thread{0};
};
Capture capture;

void on_signal(int /*number*/) {
  if (syscall(SYS_gettid) != capture.thread) return;  // its time was up
  capture.count = backtrace(capture.frames.data(), kMostFrames);
}

int our_signal() { return SIGRTMIN + 5; }

std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// 'R', 'S', 'D', ...
char state_of(const std::filesystem::path& task) {
  const std::string stat = first_line(task / "stat");
  const size_t name_end = stat.rfind(')');  // the name may hold anything
  return name_end == std::string::npos || name_end + 2 >= stat.size() ? '?' : stat[name_end + 2];
}

/// "program(name+0x12) [0x34]" with its name as written in the source.
std::string readable(const std::string& symbol) {
  const size_t open = symbol.find('('), plus = symbol.find('+', open);
  if (open == std::string::npos || plus == std::string::npos) return symbol;
  const std::string name = symbol.substr(open + 1, plus - open - 1);
  int status = -1;
  const std::unique_ptr<char, decltype(&std::free)> plain(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status),
                                                          &std::free);
  return status == 0 ? symbol.substr(0, open + 1) + plain.get() + symbol.substr(plus) : symbol;
}

std::string frames_text(void* const* frames, int count) {
  const std::unique_ptr<char*, decltype(&std::free)> symbols(backtrace_symbols(frames, count), &std::free);
  std::string text;
  for (int i = 0; symbols && i < count; ++i) text += fmt::format("  {}\n", readable(symbols.get()[i]));
  return text;
}

std::string stack_of(long thread) {
  capture.count = -1;
  capture.thread = thread;
  if (syscall(SYS_tgkill, getpid(), thread, our_signal()) != 0) return "  (gone)\n";
  const auto deadline = std::chrono::steady_clock::now() + kThreadPatience;
  while (capture.count < 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(200us);
  capture.thread = 0;
  if (capture.count < 0) return "  (does not answer)\n";
  return frames_text(capture.frames.data(), capture.count);
}

}  // namespace

std::string thread_stacks() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::array<void*, kMostFrames> own{};
  const int own_count = backtrace(own.data(), kMostFrames);  // loads what the handler must not
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(our_signal(), &action, nullptr);
  std::vector<long> threads;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", error)) {
    threads.push_back(std::atol(entry.path().filename().c_str()));
  }
  std::ranges::sort(threads);
  std::string text;
  for (const long thread : threads) {
    const std::filesystem::path task = fmt::format("/proc/self/task/{}", thread);
    const char state = state_of(task);
    text += fmt::format("thread {} ({}), state {}\n", thread, first_line(task / "comm"), state);
    if (thread == syscall(SYS_gettid)) {
      text += frames_text(own.data(), own_count);
    } else if (state == 'R' && thread != getpid()) {
      text += "  (running)\n";
    } else {
      text += stack_of(thread);
    }
  }
  return text;
}

}  // namespace unigrpo
