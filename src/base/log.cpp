#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>

#include "base/error.h"

namespace unigrpo::log {
namespace {

class Log {
 public:
  Log() {
    terminal_->set_pattern("%v");
    terminal_->set_level(spdlog::level::info);
  }

  void write(spdlog::level::level_enum level, std::string_view line) {
    const std::lock_guard lock(mutex_);
    const spdlog::string_view_t text(line.data(), line.size());
    const spdlog::details::log_msg message("", level, text);
    if (terminal_->should_log(level)) {
      terminal_->set_pattern(level == spdlog::level::info ? "%v" : "%l: %v");
      terminal_->log(message);
      terminal_->flush();
    }
    if (file_) {
      file_->log(message);
      file_->flush();  // the last lines matter most when the process dies
    }
  }

  void to_file(const std::filesystem::path& path) {
    const std::lock_guard lock(mutex_);
    try {
      file_ = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string(), false);
    } catch (const spdlog::spdlog_ex& cause) {
      throw RuntimeFailure("{}: cannot append to the log: {}", path.string(), cause.what());
    }
    file_->set_formatter(
        std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc));
  }

  void set_quiet(bool quiet) {
    const std::lock_guard lock(mutex_);
    terminal_->set_level(quiet ? spdlog::level::warn : spdlog::level::info);
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<spdlog::sinks::sink> terminal_ = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  std::shared_ptr<spdlog::sinks::sink> file_;
};

// Never destroyed: other static objects may still log while the process ends.
Log& the_log() {
  static Log* const log = new Log;
  return *log;
}

}  // namespace

void info(std::string_view line) { the_log().write(spdlog::level::info, line); }
void warn(std::string_view line) { the_log().write(spdlog::level::warn, line); }
void error(std::string_view line) { the_log().write(spdlog::level::err, line); }
void to_file(const std::filesystem::path& path) { the_log().to_file(path); }
void set_quiet(bool quiet) { the_log().set_quiet(quiet); }

}  // namespace unigrpo::log
