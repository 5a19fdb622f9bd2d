#include "ingest/pipeline.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/text.h"
#include "ingest/files.h"
#include "ingest/manifest.h"
#include "ingest/reading.h"
#include "io/atomic_file.h"
#include "io/folder_lock.h"

namespace unigrpo::ingest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::unique_ptr<Stage> make_stage(const std::string& name, const Options& options) {
  if (name == "probe") return make_probe(options);
  if (name == "shots") return make_shots(options);
  if (name == "filter") return make_filter(options);
  if (name == "dedup") return make_dedup(options);
  if (name == "sync") return make_sync(options);
  if (name == "caption") return make_caption(options);
  return make_curriculum(options);
}

/// What a stage says of a row; a file that cannot be read is a reason to drop it.
json measure_or_drop(const Stage& stage, const json& row) {
  try {
    return stage.measure(row);
  } catch (const BadInput& error) {
    return refused(row, error.what());
  }
}

/// Measures the rows that have not been, some at once.
std::vector<json> measure_all(const Options& options, const Stage& stage, const std::vector<json>& rows,
                              Progress& progress) {
  std::vector<std::optional<json>> measured = progress.take_measured();
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr error;
  const auto work = [&] {
    for (size_t row = 0; (row = next++) < rows.size();) {
      if (measured[row]) continue;
      if (options.stop.requested()) return;
      try {
        json result = measure_or_drop(stage, rows[row]);
        const std::scoped_lock lock(mutex);
        progress.add(row, result);
        measured[row] = std::move(result);
        fault::point("ingest.row");
      } catch (...) {
        const std::scoped_lock lock(mutex);
        if (!error) error = std::current_exception();
        next = rows.size();
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 1; i < options.workers; ++i) threads.emplace_back(work);
    work();
  }
  if (error) std::rethrow_exception(error);
  std::vector<json> results;
  for (std::optional<json>& result : measured) {
    if (!result)
      throw Interrupted(fmt::format("{}: stage {} was stopped; the same command goes on with it", options.stop.signal(),
                                    stage.name()));
    results.push_back(*std::move(result));
  }
  return results;
}

/// What goes into a stage: the rows before it, or the folder's files.
struct Source {
  std::string from, digest;
  std::vector<json> rows;
};

class Pipeline {
 public:
  explicit Pipeline(const Options& options) : options_(options) {}

  void run(const Stage& stage) {
    const Stopwatch watch;
    const std::string name = stage.name();
    Source source = source_of(name);
    Manifest manifest = {.stage = name,
                         .version = stage.version(),
                         .from = source.from,
                         .settings = stage.settings().dump(),
                         .inputs = source.digest,
                         .rows = {}};
    const fs::path path = manifest_path(options_.out, name);
    const bool unchanged = is_unchanged(path, manifest);
    if (!unchanged) {
      Progress progress(options_.out / (name + ".part.jsonl"), manifest, source.rows.size());
      std::vector<json> measured = measure_all(options_, stage, source.rows, progress);
      manifest.rows = stage.collect(std::move(source.rows), std::move(measured));
      fault::point("ingest.collected");
      write_manifest(path, manifest);
      fault::point("ingest.manifest");
      progress.remove();
    }
    report(manifest, unchanged, watch.seconds());
    last_ = std::move(manifest);
  }

 private:
  Source source_of(const std::string& name) {
    if (name == kStageNames.front()) {
      Source source = {.from = "", .digest = "", .rows = list_files(options_.in, options_.out)};
      source.digest = digest_of(source.rows);
      return source;
    }
    if (!last_) last_ = manifest_before(name);
    Source source = {.from = last_->stage, .digest = "", .rows = last_->kept()};
    source.digest = digest_of(source.rows);
    return source;
  }

  Manifest manifest_before(const std::string& name) const {
    const auto place = std::ranges::find(kStageNames, name);
    for (auto stage = place; stage != kStageNames.begin();) {
      const fs::path path = manifest_path(options_.out, *--stage);
      if (fs::exists(path)) return read_manifest(path);
    }
    throw BadInput("{}: no manifest of a stage before {}, expected {} to be run first", options_.out.string(), name,
                   kStageNames.front());
  }

  /// Takes its rows over where it is.
  static bool is_unchanged(const fs::path& path, Manifest& manifest) {
    if (!fs::exists(path)) return false;
    Manifest there = read_manifest(path);
    if (!there.same_inputs(manifest)) return false;
    manifest.rows = std::move(there.rows);
    return true;
  }

  void report(const Manifest& manifest, bool unchanged, double seconds) const {
    const std::map<std::string, int64_t> reasons = manifest.dropped_by_reason();
    std::vector<std::string> parts;
    int64_t num_dropped = 0;
    for (const auto& [reason, count] : reasons) {
      parts.push_back(fmt::format("{} {}", reason, count));
      num_dropped += count;
    }
    const auto num_rows = static_cast<int64_t>(manifest.rows.size());
    fmt::print("{}: {}{} kept, {} dropped{}, {:.2f} s\n", manifest.stage, unchanged ? "unchanged, " : "",
               num_rows - num_dropped, num_dropped, parts.empty() ? "" : " (" + join(parts, ", ") + ")", seconds);
    std::fflush(stdout);
    if (unchanged) return;
    const json line = {{"stage", manifest.stage},
                       {"kept", num_rows - num_dropped},
                       {"dropped", reasons},
                       {"seconds", seconds},
                       {"workers", options_.workers}};
    const fs::path log = options_.out / "log.jsonl";
    io::write_file_atomic(log, (fs::exists(log) ? io::read_text_file(log) : "") + line.dump() + "\n");
  }

  const Options& options_;
  std::optional<Manifest> last_;
};

}  // namespace

std::vector<std::string> chosen_stages(const Options& options) {
  for (const std::string& name : options.stages) {
    if (std::ranges::find(kStageNames, name) == kStageNames.end()) {
      const std::vector<std::string> names(kStageNames.begin(), kStageNames.end());
      throw BadInput("--stages: there is no stage {}, expected some of {}", in_quotes(name), join(names, ", "));
    }
  }
  std::vector<std::string> chosen;
  for (const char* name : kStageNames) {
    const bool named = std::ranges::find(options.stages, name) != options.stages.end();
    if (named || options.stages.empty()) chosen.emplace_back(name);
  }
  return chosen;
}

void run_stages(const Options& options) {
  std::vector<std::unique_ptr<Stage>> stages;  // all of them first: what one of them is told may be wrong
  for (const std::string& name : chosen_stages(options)) stages.push_back(make_stage(name, options));
  if (!fs::is_directory(options.in)) throw BadInput("{}: is not a folder", options.in.string());
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) throw BadInput("{}: cannot make this folder: {}", options.out.string(), error.message());
  const io::FolderLock lock(options.out, "the set");
  Pipeline pipeline(options);
  for (const auto& stage : stages) pipeline.run(*stage);
}

json Stage::settings() const { return json::object(); }
json Stage::measure(const json& /*row*/) const { return json::object(); }

std::vector<json> Stage::collect(std::vector<json> rows, std::vector<json> measured) const {
  for (size_t i = 0; i < rows.size(); ++i) add_measured(rows[i], name(), std::move(measured[i]));
  return rows;
}

json dropped(const std::string& reason, const std::string& detail) {
  return {{"dropped", {{"reason", reason}, {"detail", detail}}}};
}

void add_measured(json& row, const char* stage, json measured) {
  if (measured.contains("dropped")) {
    row["dropped"] = std::move(measured["dropped"]);
    measured.erase("dropped");
  }
  if (!measured.empty()) row[stage] = std::move(measured);
}

}  // namespace unigrpo::ingest
