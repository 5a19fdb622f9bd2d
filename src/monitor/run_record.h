#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace unigrpo::monitor {

/// What a process of a run is made of, and where in the run it began.
struct Launch {
  std::string version, commit, libtorch;  // of the program
  std::string cpu;                        // its name, and the vector instructions that are used
  int64_t threads = 0;                    // of an operation
  std::string command;                    // the command line, quoted for a shell
  std::string start;                      // UTC, 2026-01-31T12:00:00Z
  int64_t step = 0;                       // steps done when it began

  bool operator==(const Launch&) const = default;
};

/// A file that a run began with.
struct InputFile {
  std::string path;    // as the recipe leads to it
  std::string sha256;  // lower-case hexadecimal

  bool operator==(const InputFile&) const = default;
};

/// run.json: what made a run (docs/FORMATS.md).
struct RunRecord {
  Launch first;
  std::vector<Launch> resumed = {};
  std::map<std::string, InputFile> inputs = {};  // by recipe key, and file within its folder

  bool operator==(const RunRecord&) const = default;
};

void write_run_record(const std::filesystem::path& file, const RunRecord& record);

/// Empty where the file is not there. Throws BadInput naming file and key.
std::optional<RunRecord> read_run_record(const std::filesystem::path& file);

/// What of the program and the machine is another one, "commit abc, now def; ..."; empty where nothing is.
std::string changed_build(const Launch& before, const Launch& now);

}  // namespace unigrpo::monitor
