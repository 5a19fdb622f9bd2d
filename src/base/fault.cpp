#include "base/fault.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "base/enum_names.h"
#include "base/error.h"
#include "base/text.h"

namespace unigrpo::fault {

std::atomic<bool> enabled{std::getenv("UNIGRPO_FAULT") != nullptr};

namespace {

UNIGRPO_ENUM(Action, kill, segv, stop, exit, UNIGRPO_SPELLED(raise, "throw"), enospc, eio, erofs,
             UNIGRPO_SPELLED(short_write, "short"), nan, inf, memory, delay);

struct Rule {
  std::string point;
  uint64_t hit = 1;
  Action action = Action::kill;
  std::chrono::milliseconds delay{0};
};

struct Registry {
  std::vector<Rule> rules;  // of this rank
  std::map<std::string, uint64_t, std::less<>> passes;
};

uint64_t number_in(std::string_view text, std::string_view rule) {
  uint64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size()) {
    throw BadInput("UNIGRPO_FAULT: {}: {} is not a count", in_quotes(rule), in_quotes(text));
  }
  return value;
}

// The part after the last `separator`, cut off from `text`; empty where there is none.
std::string_view cut_after(std::string_view& text, char separator) {
  const size_t at = text.find(separator);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = text.substr(at + 1);
  text = text.substr(0, at);
  return rest;
}

Registry parse(std::string_view specification) {
  const char* rank_text = std::getenv("RANK");
  const uint64_t rank = rank_text == nullptr ? 0 : number_in(rank_text, "RANK");
  Registry registry;
  while (!specification.empty()) {
    std::string_view left = specification;
    specification = cut_after(left, ',');
    const std::string_view rule_text = left;
    std::string_view action = cut_after(left, '=');
    const std::string_view hit = cut_after(left, ':');
    const std::string_view only_rank = cut_after(left, '@');
    const std::string_view delay = cut_after(action, ':');
    const auto known = enum_value<Action>(action);
    if (left.empty() || !known || (*known == Action::delay) == delay.empty()) {
      throw BadInput("UNIGRPO_FAULT: {} is not point[@rank][:hit]=action with action {}", in_quotes(rule_text),
                     enum_choices<Action>());
    }
    Rule rule{.point = std::string(left), .action = *known};
    if (!hit.empty()) rule.hit = number_in(hit, rule_text);
    if (!delay.empty()) rule.delay = std::chrono::milliseconds(number_in(delay, rule_text));
    if (only_rank.empty() || number_in(only_rank, rule_text) == rank) {
      registry.rules.push_back(std::move(rule));
    }
  }
  return registry;
}

std::mutex mutex;
std::unique_ptr<Registry> registry;

std::vector<Rule> due_rules(std::string_view name) {
  const std::lock_guard lock(mutex);
  if (registry == nullptr) {
    const char* text = std::getenv("UNIGRPO_FAULT");
    registry = std::make_unique<Registry>(parse(text == nullptr ? "" : text));
  }
  auto entry = registry->passes.try_emplace(std::string(name), 0).first;
  const uint64_t pass = ++entry->second;
  std::vector<Rule> due;
  for (const Rule& rule : registry->rules) {
    if (rule.point == name && rule.hit == pass) due.push_back(rule);
  }
  return due;
}

}  // namespace

Effect passed(std::string_view name) {
  Effect effect;
  for (const Rule& rule : due_rules(name)) {
    switch (rule.action) {
      case Action::kill:
        std::raise(SIGKILL);
        break;
      case Action::segv:
        std::signal(SIGSEGV, SIG_DFL);
        std::raise(SIGSEGV);
        break;
      case Action::stop:
        std::raise(SIGSTOP);
        break;
      case Action::exit:
        _exit(static_cast<int>(ExitCode::failed));
      case Action::raise:
        throw RuntimeFailure("fault point {}: thrown on request", name);
      case Action::enospc:
        effect.error = ENOSPC;
        break;
      case Action::eio:
        effect.error = EIO;
        break;
      case Action::erofs:
        effect.error = EROFS;
        break;
      case Action::short_write:
        effect.short_write = true;
        break;
      case Action::nan:
        effect.bad = std::numeric_limits<double>::quiet_NaN();
        break;
      case Action::inf:
        effect.bad = std::numeric_limits<double>::infinity();
        break;
      case Action::memory:
        throw std::bad_alloc();
      case Action::delay:
        std::this_thread::sleep_for(rule.delay);
        break;
    }
  }
  return effect;
}

void point_slow(std::string_view name) {
  const Effect effect = passed(name);
  if (effect.error != 0) {
    throw RuntimeFailure("fault point {}: {}", name, std::strerror(effect.error));
  }
  if (effect.bad || effect.short_write) {
    throw RuntimeFailure("fault point {}: nan, inf and short have no meaning here", name);
  }
}

void configure(std::string_view specification) {
  const std::lock_guard lock(mutex);
  registry = std::make_unique<Registry>(parse(specification));
  enabled = !specification.empty();
}

}  // namespace unigrpo::fault
