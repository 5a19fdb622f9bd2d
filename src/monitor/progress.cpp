#include "monitor/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/text.h"

namespace unigrpo::monitor {
namespace {

constexpr size_t kSparklineLength = 20;
constexpr int kBarColumns = 20;
constexpr double kForget = 0.15;  // weight of the newest step in the mean time of a step

// UTF-8 of the eight lower block elements, U+2581..U+2588.
constexpr std::array<std::string_view, 8> kBlocks = {"\xe2\x96\x81", "\xe2\x96\x82", "\xe2\x96\x83", "\xe2\x96\x84",
                                                     "\xe2\x96\x85", "\xe2\x96\x86", "\xe2\x96\x87", "\xe2\x96\x88"};
constexpr std::array<std::string_view, 8> kAsciiBlocks = {"_", ".", ":", "-", "=", "+", "*", "#"};
constexpr std::string_view kBarDone = "\xe2\x94\x81";  // heavy horizontal
constexpr std::string_view kBarLeft = "\xe2\x94\x80";  // light horizontal

constexpr std::string_view kReset = "\x1b[0m", kBold = "\x1b[1m", kDim = "\x1b[2m", kAccent = "\x1b[36m";

// What a plain line names, in this order, where the record has it.
constexpr std::array kPlainNames = {"reward/mean",
                                    "reward/std",
                                    "loss",
                                    "text/loss",
                                    "image/loss",
                                    "sft/loss",
                                    "sft/cross_entropy",
                                    "sft/velocity_mse",
                                    "sft/reconstruction_l1",
                                    "text/kl",
                                    "image/velocity_mse",
                                    "optim/grad_norm",
                                    "throughput/images_per_s",
                                    "parallel/comm_share",
                                    "parallel/wait_share_max",
                                    "parallel/slowest_rank"};

int columns_of(std::string_view text) {  // every character we print is one column wide
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string number(double value) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  const double magnitude = std::fabs(value);
  if (magnitude >= 1000 && magnitude < 1e7) return fmt::format("{:.0f}", value);
  return fmt::format("{:.3g}", value);
}

std::string sparkline(const std::deque<double>& values, bool unicode) {
  const auto& blocks = unicode ? kBlocks : kAsciiBlocks;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  std::string line;
  for (const double value : values) {
    const double share = *high > *low ? (value - *low) / (*high - *low) : 0.5;
    line += blocks[static_cast<size_t>(std::lround(share * 7))];
  }
  return line;
}

std::string bar(int64_t done, int64_t all, bool unicode) {
  const auto filled =
      static_cast<int>(std::clamp<int64_t>(done * kBarColumns / std::max<int64_t>(all, 1), 0, kBarColumns));
  std::string text;
  for (int i = 0; i < kBarColumns; ++i) {
    text += i < filled ? (unicode ? kBarDone : "=") : (unicode ? kBarLeft : "-");
  }
  return text;
}

// The metric that stands for the run: the reward, or what is made small where there is none (sft).
std::string headline_of(const StepRecord& record) {
  for (const std::string name :
       {"reward/mean", "loss", "sft/loss", "sft/cross_entropy", "sft/velocity_mse", "sft/reconstruction_l1"}) {
    if (record.values.contains(name)) return name;
  }
  for (const auto& [name, value] : record.values) {
    if (name.ends_with("/loss")) return name;
  }
  return "";
}

std::optional<double> value_of(const StepRecord& record, const std::string& name) {
  const auto found = record.values.find(name);
  return found == record.values.end() ? std::nullopt : std::optional(found->second);
}

constexpr size_t kMostTerms = 3;

// Rewards by their own names, where there are several: without what is made of them (reward/mean, ...) and without the
// parts of one (geneval_strict).
std::vector<std::pair<std::string, double>> terms_of(const StepRecord& record) {
  constexpr std::string_view kPrefix = "reward/";
  std::vector<std::pair<std::string, double>> terms;
  for (const auto& [name, value] : record.values) {  // in order of name: a term comes before its parts
    if (!name.starts_with(kPrefix)) continue;
    const std::string term = name.substr(kPrefix.size());
    if (term == "mean" || term == "std" || term == "dropped") continue;
    const auto is_part = [&term](const auto& other) { return term.starts_with(other.first + "_"); };
    if (std::none_of(terms.begin(), terms.end(), is_part)) terms.emplace_back(term, value);
  }
  if (terms.size() < 2) return {};
  if (terms.size() > kMostTerms) terms.resize(kMostTerms);
  return terms;
}

// The mean rewards of a recipe's tasks, by the tasks' names, where there are several.
std::vector<std::pair<std::string, double>> tasks_of(const StepRecord& record) {
  constexpr std::string_view kPrefix = "task/", kSuffix = "/reward/mean";
  std::vector<std::pair<std::string, double>> tasks;
  for (const auto& [name, value] : record.values) {
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) continue;
    tasks.emplace_back(name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()), value);
  }
  return tasks.size() < 2 ? std::vector<std::pair<std::string, double>>() : tasks;
}

/// "comm 3%, wait 12% for rank 1" of a run on several ranks.
std::string ranks_of(const StepRecord& record) {
  const auto comm = value_of(record, "parallel/comm_share"), wait = value_of(record, "parallel/wait_share_max"),
             slowest = value_of(record, "parallel/slowest_rank");
  if (!comm || !wait || !slowest) return {};
  return fmt::format("comm {:.0f}%, wait {:.0f}% for rank {:.0f}", 100 * *comm, 100 * *wait, *slowest);
}

struct Part {
  std::string text;
  std::string_view style;
  int rank;  // the highest goes first when the line is too long
};

}  // namespace

Progress::Progress(Options options) : options_(std::move(options)), started_(options_.now()), last_record_(started_) {}

void Progress::phase(const std::string& name) {
  if (name == phase_) return;
  phase_ = name;
  redraw();
}

void Progress::record(const StepRecord& record) {
  const double now = options_.now();
  const double seconds = now - last_record_;
  last_record_ = now;
  if (record.step == 0) {  // before training: no step is done
    if (!options_.live) options_.write(plain_line(record) + "\n");
    return;
  }
  // The first step also pays for start-up; it is forgotten at the second.
  seconds_per_step_ = num_recorded_ < 2 ? seconds : (1 - kForget) * *seconds_per_step_ + kForget * seconds;
  ++num_recorded_;
  steps_done_ = record.step;
  images_per_s_ = value_of(record, "throughput/images_per_s");
  tokens_per_s_ = value_of(record, "throughput/tokens_per_s");
  ranks_ = ranks_of(record);
  if (headline_.empty()) headline_ = headline_of(record);
  headline_value_ = value_of(record, headline_);
  tasks_ = tasks_of(record);
  terms_ = terms_of(record);
  if (const auto value = headline_value_; value && std::isfinite(*value)) {
    if (!first_value_) first_value_ = value;
    recent_.push_back(*value);
    if (recent_.size() > kSparklineLength) recent_.pop_front();
  }
  if (options_.live) {
    redraw();
  } else {
    options_.write(plain_line(record) + "\n");
  }
}

std::optional<double> Progress::seconds_left() const {
  if (!seconds_per_step_ || steps_done_ >= options_.num_steps) return std::nullopt;
  return *seconds_per_step_ * static_cast<double>(options_.num_steps - steps_done_);
}

std::string Progress::plain_line(const StepRecord& record) const {
  std::string line = fmt::format("step {}/{}", steps_done_, options_.num_steps);
  for (const char* name : kPlainNames) {
    if (const auto value = value_of(record, name)) line += fmt::format("  {} {}", name, number(*value));
    if (name != std::string_view("reward/mean")) continue;
    for (const auto& [task, value] : tasks_) line += fmt::format("  task/{}/reward/mean {}", task, number(value));
    for (const auto& [term, value] : terms_) line += fmt::format("  reward/{} {}", term, number(value));
  }
  for (const auto& [name, value] : record.values) {
    if (name.starts_with("eval/")) line += fmt::format("  {} {}", name, number(value));
  }
  if (const auto seconds = value_of(record, "time/step"); seconds || seconds_per_step_) {
    line += fmt::format("  {:.2f} s", seconds ? *seconds : *seconds_per_step_);
  }
  if (const auto left = seconds_left()) line += fmt::format("  {} left", human_seconds(*left));
  return line;
}

std::string Progress::live_line() const {
  std::vector<Part> parts;
  parts.push_back({fmt::format("step {}/{}", steps_done_, options_.num_steps), kBold, 0});
  parts.push_back({bar(steps_done_, options_.num_steps, options_.unicode), kAccent, 7});
  if (!recent_.empty()) {
    const std::string label = headline_ == "reward/mean" ? "reward" : headline_;
    parts.push_back({fmt::format("{} {}", label, headline_value_ ? number(*headline_value_) : "-"), kBold, 1});
    std::string terms;
    for (const auto& [term, value] : tasks_.empty() ? terms_ : tasks_)
      terms += fmt::format("{}{} {}", terms.empty() ? "" : " ", term, number(value));
    if (!terms.empty()) parts.push_back({terms, "", 4});
    if (recent_.size() > 1) parts.push_back({sparkline(recent_, options_.unicode), kAccent, 5});
  }
  if (!phase_.empty()) parts.push_back({phase_, "", 2});
  if (images_per_s_) {
    parts.push_back({fmt::format("{} images/s", number(*images_per_s_)), kDim, 6});
  } else if (tokens_per_s_) {
    parts.push_back({fmt::format("{} tokens/s", number(*tokens_per_s_)), kDim, 6});
  }
  if (!ranks_.empty()) parts.push_back({ranks_, kDim, 8});
  if (const auto left = seconds_left()) parts.push_back({human_seconds(*left) + " left", kDim, 3});

  const int known = options_.width ? options_.width() : 0;
  const int room = (known > 0 ? known : 80) - 1;  // the last column would make some terminals wrap
  const auto columns = [&parts] {
    int sum = -2;
    for (const Part& part : parts) sum += columns_of(part.text) + 2;
    return sum;
  };
  while (parts.size() > 1 && columns() > room) {
    parts.erase(
        std::max_element(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.rank < b.rank; }));
  }
  if (columns() > room) parts[0].text.resize(static_cast<size_t>(std::max(room, 0)));  // ASCII

  std::string line;
  for (const Part& part : parts) {
    if (!line.empty()) line += "  ";
    const bool styled = options_.colour && !part.style.empty();
    line += styled ? fmt::format("{}{}{}", part.style, part.text, kReset) : part.text;
  }
  return line;
}

void Progress::redraw() {
  if (!options_.live || finished_) return;
  // The cursor waits at the line's start, so that a line from elsewhere begins there.
  options_.write("\r\x1b[K" + live_line() + "\r");
  shown_ = true;
}

void Progress::clear() {
  if (!shown_) return;
  options_.write("\r\x1b[K");
  shown_ = false;
}

void Progress::finish() {
  clear();
  if (finished_) return;
  finished_ = true;
  if (num_recorded_ == 0) return;
  std::string line = fmt::format("{} step{} in {}", num_recorded_, num_recorded_ == 1 ? "" : "s",
                                 human_seconds(options_.now() - started_));
  if (first_value_) line += fmt::format("  {} {} -> {}", headline_, number(*first_value_), number(recent_.back()));
  options_.write(line + "\n");
}

Progress::Options stdout_progress(int64_t num_steps) {
  const auto variable = [](const char* name) -> std::string_view {
    const char* value = std::getenv(name);
    return value ? value : "";
  };
  std::string_view locale = variable("LC_ALL");
  if (locale.empty()) locale = variable("LC_CTYPE");
  if (locale.empty()) locale = variable("LANG");
  const auto names = [locale](std::string_view charset) { return locale.find(charset) != std::string_view::npos; };
  return {
      .num_steps = num_steps,
      .live = isatty(STDOUT_FILENO) == 1 && variable("TERM") != "dumb",
      .unicode = names("UTF-8") || names("utf8") || names("utf-8") || names("UTF8"),
      .colour = variable("NO_COLOR").empty(),
      .width =
          [] {
            winsize size{};
            return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? int{size.ws_col} : 0;
          },
      .now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); },
      .write =
          [](std::string_view bytes) {
            // A display that cannot be written (a log on a full disk) is no reason to stop a run.
            std::fwrite(bytes.data(), 1, bytes.size(), stdout);
            std::fflush(stdout);
          },
  };
}

}  // namespace unigrpo::monitor
