// A reward that does harm as its settings say: `do` names the harm, `on` is part of the ids of the samples that set it
// off (empty: every sample). Every other sample's score is its prompt's length. Built a second time with HOSTILE_ABI
// for another version of the interface.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <clocale>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <unigrpo/reward.hpp>

namespace {

volatile int sink;

[[gnu::noinline]] int overflow_the_stack(int depth) {
  volatile char frame[4096];
  frame[0] = static_cast<char>(depth);
  return (sink >= 0 ? overflow_the_stack(depth + 1) : 0) + frame[0];
}

void hang() {
  for (;;) pause();
}

void allocate(size_t bytes) {
  std::vector<char*> blocks;
  for (size_t done = 0; done < bytes; done += size_t{64} << 20) {
    blocks.push_back(new char[size_t{64} << 20]);
    std::memset(blocks.back(), 1, size_t{64} << 20);
  }
  sink = blocks.back()[0];
}

void leave_a_child() {
  if (fork() != 0) return;
  setsid();
  hang();
}

void spin() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 64; ++i) {
    threads.emplace_back([] {
      for (;;) sink = sink + 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void print(size_t bytes) {
  const std::string block(size_t{1} << 20, 'x');
  for (size_t done = 0; done < bytes; done += block.size()) std::fwrite(block.data(), 1, block.size(), stdout);
  std::fflush(stdout);
}

class Hostile : public unigrpo::Reward {
 public:
  explicit Hostile(const unigrpo::Settings& settings)
      : do_(settings.text("do", "")), on_(settings.text("on", "")), seconds_(settings.number("seconds", 10)) {
    options_.batch_size = static_cast<uint32_t>(settings.number("batch_size", 1));
    options_.threads = static_cast<uint32_t>(settings.number("threads", 1));
    options_.wants_groups = settings.flag("wants_groups", false);
    options_.dimensions = {{"length", 0, 1000}};
    if (do_ == "crash in the constructor") std::raise(SIGSEGV);
    if (do_ == "hang in the constructor") hang();
    if (do_ == "no batch") options_.batch_size = 0;
  }
  ~Hostile() override {
    if (do_ == "crash in the destructor") std::raise(SIGSEGV);
    if (do_ == "hang in the destructor") hang();
  }

  unigrpo::Options options() const override { return options_; }

  std::vector<unigrpo::Score> score(const unigrpo::Samples& samples) override {
    bool struck = false;
    std::vector<unigrpo::Score> scores;
    for (const unigrpo::Sample& sample : samples) {
      unigrpo::Score score(static_cast<double>(sample.prompt.size()));
      if (sample.id.find(on_) != std::string_view::npos) {
        struck = true;
        strike(score);
      }
      scores.push_back(score);
    }
    if (struck && do_ == "wrong count") scores.emplace_back(1.0);
    return scores;
  }

 private:
  void strike(unigrpo::Score& score) const {
    const std::string& what = do_;
    if (what == "throw std") throw std::runtime_error("no such luck");
    if (what == "throw int") throw 42;
    if (what == "throw no UTF-8")
      throw std::runtime_error(
          "\xe9"
          "chec");
    if (what == "throw in silence") throw std::runtime_error("");
    if (what == "miss without UTF-8") score = unigrpo::Score::missing("caf\xe9 noir");
    if (what == "hang") hang();
    if (what == "sleep") std::this_thread::sleep_for(std::chrono::duration<double>(seconds_));
    if (what == "SIGSEGV") std::raise(SIGSEGV);
    if (what == "SIGABRT") std::abort();
    if (what == "exit") std::exit(0);
    if (what == "_exit") _exit(3);
    if (what == "NaN") score = std::nan("");
    if (what == "Inf") score = HUGE_VAL;
    if (what == "out of range") score = 1e300;
    if (what == "out of bounds") score = -7;
    if (what == "missing") score = unigrpo::Score::missing("cannot tell");
    if (what == "unknown dimension") score.set("width", 1);
    if (what == "allocate") allocate(10'000'000'000);
    if (what == "stack overflow") sink = overflow_the_stack(0);
    if (what == "double free") {
      void* volatile block = std::malloc(100);
      std::free(block);
      std::free(block);
    }
    if (what == "print") print(1'000'000'000);
    if (what == "close all") {
      for (int descriptor = 0; descriptor < 1024; ++descriptor) close(descriptor);
    }
    if (what == "ignore SIGTERM") {
      for (int number = 1; number < 32; ++number) std::signal(number, SIG_IGN);
      hang();
    }
    if (what == "locale and folder") {
      std::setlocale(LC_ALL, "de_DE.UTF-8");
      if (chdir("/") != 0) std::abort();
    }
    if (what == "leave a child") leave_a_child();
    if (what == "spin") spin();
    if (what == "die later") {
      std::thread([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        _exit(9);
      }).detach();
    }
  }

  std::string do_, on_;
  double seconds_;
  unigrpo::Options options_;
};

}  // namespace

#ifdef HOSTILE_ABI
extern "C" const unigrpo_reward_plugin unigrpo_reward_plugin_table = {
    UNIGRPO_REWARD_MAGIC, HOSTILE_ABI, 8, 0, 0, 0, 0, 0, 0, nullptr, nullptr, nullptr, nullptr, nullptr};
#else
UNIGRPO_REWARD_PLUGIN(Hostile, "hostile")
#endif
