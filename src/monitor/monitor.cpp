#include "monitor/monitor.h"

#include <mutex>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "monitor/append_file.h"
#include "monitor/metrics_file.h"
#include "monitor/progress.h"
#include "monitor/tensorboard_sink.h"

namespace unigrpo::monitor {
namespace {

std::filesystem::path prepared_metrics_file(const Monitor::Options& options) {
  const auto file = options.run_dir / "metrics.jsonl";
  if (options.last_row) cut_metrics(file, *options.last_row);
  return file;
}

}  // namespace

struct Monitor::Impl {
  explicit Impl(const Options& options) {
    if (!options.writes) {
      std::filesystem::create_directories((options.run_dir / options.log).parent_path());
      log::to_file(options.run_dir / options.log);
      return;
    }
    metrics.emplace(prepared_metrics_file(options),
                    options.last_row ? AppendFile::Mode::extend : AppendFile::Mode::create);
    log::to_file(options.run_dir / options.log);
    // TensorBoard forgets what older files hold from the first step on that comes again.
    const int64_t first = options.last_row ? *options.last_row + 1 : -1;
    if (options.config.tensorboard) tensorboard.emplace(options.run_dir / "tensorboard", first);
    if (!options.quiet) progress.emplace(stdout_progress(options.num_steps));
  }

  std::mutex mutex;                   // rewards are judged on other threads and may leave a note
  std::optional<AppendFile> metrics;  // none: nothing is written
  std::optional<TensorboardSink> tensorboard;
  std::optional<Progress> progress;
};

Monitor::Monitor(const Options& options) : impl_(std::make_unique<Impl>(options)) {}

Monitor::~Monitor() {
  if (impl_->progress) impl_->progress->clear();
}

void Monitor::phase(const std::string& name) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->progress) impl_->progress->phase(name);
}

void Monitor::record(const StepRecord& record) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->metrics) return;
  impl_->metrics->append(metrics_row(record) + "\n");
  if (impl_->tensorboard) impl_->tensorboard->record(record);
  if (impl_->progress) impl_->progress->record(record);
}

void Monitor::note(const std::string& line) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->metrics) return;
  if (impl_->progress) impl_->progress->clear();
  log::info(line);
  if (impl_->progress) impl_->progress->redraw();
}

void Monitor::finish() {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->progress) impl_->progress->finish();
}

}  // namespace unigrpo::monitor
